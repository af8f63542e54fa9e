//! A call's stream of answers, made by a task of its own.

use std::pin::Pin;
use std::task::{Context, Poll};

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
            Err(Status::internal(
                "the broker failed while serving this stream; its log says why",
            ))
        }))
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
}
