//! A call's stream of answers: made by a task of its own, or by whoever reads them.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tonic::Status;

/// What the task sends, and then whether it ended well: a panic must not pass for the end of the stream.
#[derive(Debug)]
pub(super) struct Answers<T> {
    receiver: mpsc::Receiver<Result<T, Status>>,
    /// `None` after its end was told.
    task: Option<JoinHandle<()>>,
}

impl<T> Answers<T> {
    pub(super) fn new(
        receiver: mpsc::Receiver<Result<T, Status>>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self {
            receiver,
            task: Some(tokio::spawn(task)),
        }
    }
}

impl<T> Stream for Answers<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(answer) = std::task::ready!(self.receiver.poll_recv(cx)) {
            return Poll::Ready(Some(answer));
        }
        let Some(task) = &mut self.task else {
            return Poll::Ready(None);
        };
        let ended = std::task::ready!(Pin::new(task).poll(cx));
        self.task = None;
        Poll::Ready(ended.err().map(|error| {
            tracing::error!(%error, "the task of a stream ended early");
            Err(failed())
        }))
    }
}

fn failed() -> Status {
    Status::internal("the broker failed while serving this stream; its log says why")
}

/// As [`Answers`], but the work goes on in the task that reads them, and only while they are read. A stream with little to
/// do and many like it is woken once instead of twice for each answer.
pub(super) struct OwnAnswers<T> {
    /// `None` after its end.
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    place: Place<T>,
}

/// Where the work of [`OwnAnswers`] puts its answers.
pub(super) struct Place<T>(Arc<Mutex<Option<Result<T, Status>>>>);

impl<T> Place<T> {
    /// Gives an answer, and waits until it was taken and the next is asked for.
    pub(super) async fn put(&self, answer: Result<T, Status>) {
        *self.0.lock() = Some(answer);
        // Who takes it polls again by itself, so that nobody has to be woken.
        poll_fn(|_| match &*self.0.lock() {
            Some(_) => Poll::Pending,
            None => Poll::Ready(()),
        })
        .await;
    }
}

impl<T> OwnAnswers<T> {
    pub(super) fn new<W>(work: impl FnOnce(Place<T>) -> W) -> Self
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let place = Arc::default();
        Self {
            work: Some(Box::pin(work(Place(Arc::clone(&place))))),
            place: Place(place),
        }
    }
}

impl<T> Stream for OwnAnswers<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(work) = &mut self.work else {
            return Poll::Ready(None);
        };
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        let answer = self.place.0.lock().take();
        let ended = match polled {
            Ok(Poll::Pending) => return answer.map_or(Poll::Pending, |a| Poll::Ready(Some(a))),
            Ok(Poll::Ready(())) => None,
            Err(_) => {
                tracing::error!("the work of a stream panicked");
                Some(Err(failed()))
            }
        };
        self.work = None;
        Poll::Ready(answer.or(ended))
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    /// The task's end of the channel is dropped by a panic as by its normal end, and the stream ended with OK: a
    /// consumer took that for the end of its partitions.
    #[tokio::test]
    async fn a_stream_whose_task_panics_ends_with_an_error_after_what_was_sent() {
        let (sender, receiver) = mpsc::channel(2);
        let mut answers = Answers::new(receiver, async move {
            sender.send(Ok(1)).await.expect("somebody reads");
            panic!("on purpose");
        });
        assert_eq!(answers.next().await.expect("one").expect("good"), 1);
        let error = answers
            .next()
            .await
            .expect("an end")
            .expect_err("no clean one");
        assert_eq!(error.code(), tonic::Code::Internal);
        assert!(answers.next().await.is_none());

        let (sender, receiver) = mpsc::channel::<Result<(), _>>(2);
        let mut answers = Answers::new(receiver, async move { drop(sender) });
        assert!(answers.next().await.is_none());
    }

    #[tokio::test]
    async fn what_the_reader_works_for_comes_one_by_one_and_a_panic_is_an_error_too() {
        let mut answers = OwnAnswers::new(|place| async move {
            place.put(Ok(1)).await;
            tokio::task::yield_now().await;
            place.put(Ok(2)).await;
            panic!("on purpose");
        });
        for expected in [1, 2] {
            let answer = answers.next().await.expect("one").expect("good");
            assert_eq!(answer, expected);
        }
        let error = answers
            .next()
            .await
            .expect("an end")
            .expect_err("no clean one");
        assert_eq!(error.code(), tonic::Code::Internal);
        assert!(answers.next().await.is_none());

        let mut answers = OwnAnswers::<()>::new(|_| async {});
        assert!(answers.next().await.is_none() && answers.next().await.is_none());
    }
}
