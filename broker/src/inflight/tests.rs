//! The byte budget: what waits, what is refused, and who is woken.

use std::task::Wake;

use super::*;

/// Counts how often it was rung.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// One body with what it would hold.
struct Peer {
    account: Account,
    charge: Charge,
    bell: Arc<Bell>,
}

impl Peer {
    fn new(budget: &Arc<Budget>) -> Self {
        let connection = Arc::<ConnectionInflight>::default();
        let charge = Charge::new(Arc::clone(budget), connection);
        Self {
            account: Account::new(charge.clone()),
            charge,
            bell: Arc::default(),
        }
    }

    fn poll(&mut self, bytes: usize, begun: bool, ends: bool) -> Poll<Result<(), Exhausted>> {
        let waker = Waker::from(Arc::clone(&self.bell));
        let frame = Frame { bytes, begun, ends };
        let polled = self
            .account
            .poll_charge(&frame, &mut Context::from_waker(&waker));
        polled.map_ok(|_waited| ())
    }

    fn takes(&mut self, bytes: usize, begun: bool, ends: bool) -> bool {
        match self.poll(bytes, begun, ends) {
            Poll::Ready(Ok(())) => {
                self.charge.count(bytes).expect("within the connection's");
                true
            }
            Poll::Ready(Err(status)) => panic!("{status}"),
            Poll::Pending => false,
        }
    }

    /// Whether it was rung since.
    fn rung(&self) -> bool {
        self.bell.0.swap(0, Ordering::SeqCst) > 0
    }
}

fn budget(total: u64) -> Arc<Budget> {
    Arc::new(Budget {
        total,
        per_connection: 1_000,
        metrics: Arc::default(),
        queue: Mutex::default(),
        waiting: AtomicUsize::new(0),
    })
}

fn used(budget: &Budget) -> u64 {
    budget.used().load(Ordering::SeqCst)
}

/// Whichever call happened to pass the total was failed, however little it had sent itself.
#[tokio::test]
async fn what_passes_the_total_waits_in_order_until_something_is_given_back() {
    let budget = budget(100);
    let (mut full, mut second, mut third) =
        (Peer::new(&budget), Peer::new(&budget), Peer::new(&budget));
    assert!(full.takes(100, false, true));
    assert!(!second.takes(60, false, true));
    assert!(!third.takes(1, false, true));
    full.charge.complete(std::iter::once(100));
    drop(full.charge.settle(0));
    assert!(second.rung() && !third.rung(), "the first comes first");
    assert!(!third.takes(1, false, true), "though there is room now");
    assert!(second.takes(60, false, true));
    assert!(third.rung() && third.takes(1, false, true));
    drop((full, second, third));
    assert_eq!(used(&budget), 0);
    assert_eq!(budget.waiting.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn messages_that_fill_the_total_by_halves_are_finished_one_after_the_other() {
    let budget = budget(100);
    let mut peers: Vec<Peer> = (0..5).map(|_| Peer::new(&budget)).collect();
    for peer in &mut peers {
        assert!(peer.takes(20, false, false));
    }
    // Nothing will ever be given back; the first to ask may go on for all its message.
    assert!(peers[3].takes(10, true, false), "it is favoured");
    assert!(!peers[1].takes(10, true, true));
    assert!(!peers[2].takes(10, true, true));
    assert!(peers[3].takes(10, true, true));
    assert!(
        peers[1].rung() && peers[1].takes(10, true, true),
        "then the next"
    );
    assert!(
        peers[2].rung() && peers[2].takes(10, true, true),
        "and its next"
    );
    drop(peers);
    assert_eq!(used(&budget), 0);
}

#[tokio::test]
async fn whoever_goes_away_leaves_its_place_and_its_favour_to_the_next() {
    let budget = budget(100);
    let mut full = Peer::new(&budget);
    assert!(full.takes(100, false, true));
    let (mut one, mut two, mut three) =
        (Peer::new(&budget), Peer::new(&budget), Peer::new(&budget));
    assert!(one.takes(10, true, false), "favoured");
    assert!(!two.takes(10, true, true));
    assert!(!three.takes(10, true, true));
    drop(one);
    assert!(two.rung(), "the favour is handed on");
    drop(two);
    assert!(three.rung() && three.takes(10, true, true));
    assert_eq!(used(&budget), 110);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_and_no_more_than_so_many() {
    let budget = budget(100);
    let mut full = Peer::new(&budget);
    assert!(full.takes(100, false, true));
    let mut waiting: Vec<Peer> = (0..MAX_WAITING).map(|_| Peer::new(&budget)).collect();
    for peer in &mut waiting {
        assert!(!peer.takes(1, false, true));
    }
    let refused = Peer::new(&budget).poll(1, false, true);
    assert!(
        matches!(&refused, Poll::Ready(Err(error)) if error.to_string().contains("too many wait")),
        "{refused:?}"
    );
    let mut last = waiting.pop().expect("some wait");
    drop(waiting);
    tokio::time::advance(PATIENCE).await;
    let given_up = last.poll(1, false, true);
    assert!(
        matches!(&given_up, Poll::Ready(Err(error)) if error.to_string().contains("nothing was given back")),
        "{given_up:?}"
    );
    assert_eq!(budget.waiting.load(Ordering::SeqCst), 0);
}

/// Bytes were given back by the length of the message as it would be encoded anew, so what a peer added in fields the
/// broker does not know was never given back, and a stream of such messages ended with RESOURCE_EXHAUSTED.
#[tokio::test]
async fn every_byte_of_a_message_is_given_back_and_the_answers_part_later() {
    let budget = budget(100);
    let mut peer = Peer::new(&budget);
    assert!(peer.takes(90, false, true));
    peer.charge.complete([50, 40].into_iter());
    let kept = peer.charge.settle(20);
    assert_eq!(used(&budget), 60);
    drop(peer.charge.settle(1_000));
    assert_eq!(used(&budget), 20);
    drop(kept);
    assert_eq!(used(&budget), 0);
    drop(peer.charge.settle(7));
    assert_eq!(used(&budget), 0);
}

#[tokio::test]
async fn a_connections_own_limit_is_an_error_and_leaves_nothing_behind() {
    let budget = budget(10_000);
    let peer = Peer::new(&budget);
    peer.charge.count(1_000).expect("just so many");
    let error = peer.charge.count(1).expect_err("one more");
    assert!(error.to_string().contains("the limit is 1000"), "{error}");
    peer.charge.uncount(1_000);
    peer.charge.count(1_000).expect("all is back");
}
