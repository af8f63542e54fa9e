//! Members that keep their place over restarts (KIP-345).

use super::*;

fn static_beat(member: &str, epoch: i32) -> ConsumerHeartbeat {
    let request = if epoch == 0 {
        first_beat(G, member)
    } else {
        next_beat(G, member, epoch)
    };
    ConsumerHeartbeat {
        instance_id: Some("i1".into()),
        ..request
    }
}

#[test]
fn a_static_member_leaves_for_a_while_and_comes_back_to_its_partitions() {
    let mut h = Harness::new();
    check(&mut h, static_beat("a", 0), (1, Some(&[0, 1, 2, 3])));
    assert_eq!(
        refused(&mut h, static_beat("b", 0)),
        ErrorCode::UnreleasedInstanceId
    );
    assert_eq!(
        refused(&mut h, static_beat("b", 1)),
        ErrorCode::FencedInstanceId
    );
    let unknown = ConsumerHeartbeat {
        instance_id: Some("i2".into()),
        ..next_beat(G, "a", 1)
    };
    assert_eq!(refused(&mut h, unknown), ErrorCode::UnknownMemberId);
    check(&mut h, static_beat("a", -2), (-2, None));
    h.restart();
    h.pass(30 * SECOND);
    check(&mut h, static_beat("b", 0), (1, Some(&[0, 1, 2, 3])));
    assert_eq!(
        refused(&mut h, static_beat("a", 1)),
        ErrorCode::FencedInstanceId
    );
    assert_eq!(
        refused(&mut h, static_beat("a", -1)),
        ErrorCode::FencedInstanceId
    );
    check(&mut h, static_beat("b", 1), (1, None));
    // The same id may come back, too.
    check(&mut h, static_beat("b", -2), (-2, None));
    check(&mut h, static_beat("b", 0), (1, Some(&[0, 1, 2, 3])));
    h.check_replay();
}

#[test]
fn a_static_member_that_stays_away_loses_its_place() {
    let mut h = Harness::new();
    check(&mut h, static_beat("a", 0), (1, Some(&[0, 1, 2, 3])));
    check(&mut h, static_beat("a", -2), (-2, None));
    check(&mut h, first_beat(G, "b"), (2, Some(&[])));
    h.pass(44 * SECOND);
    check(&mut h, next_beat(G, "b", 2), (2, None));
    h.pass(SECOND);
    check(&mut h, next_beat(G, "b", 2), (3, Some(&[0, 1, 2, 3])));
}

#[test]
fn a_static_member_leaves_for_good_by_the_other_epoch() {
    let mut h = Harness::new();
    check(&mut h, static_beat("a", 0), (1, Some(&[0, 1, 2, 3])));
    check(&mut h, static_beat("a", -1), (-1, None));
    assert_eq!(h.state_of(G), "Empty");
    check(&mut h, static_beat("b", 0), (3, Some(&[0, 1, 2, 3])));
}
