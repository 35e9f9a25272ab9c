use overlay_proto::Refusal;

use super::*;

/// Invariant 9.
#[test]
fn a_delta_that_does_not_fit_leaves_the_view_alone() {
    let membership = watch::Sender::new(Membership::default());
    let delta = Delta {
        from: Revision(4),
        to: Revision(5),
        changes: Vec::new(),
        put_out: Vec::new(),
        stamp: None,
    };

    let refused = follow(&membership, |membership| go_on(membership, delta, NodeId::FIRST));

    assert!(matches!(refused, Err(Ended::Astray(_))));
    assert_eq!(*membership.borrow(), Membership::default());
}

#[test]
fn who_still_reads_a_view_keeps_it_as_it_was() {
    let membership = watch::Sender::new(Membership::default());
    let read = Arc::clone(&membership.borrow().view);
    let delta = Delta {
        from: Revision(0),
        to: Revision(1),
        changes: Vec::new(),
        put_out: Vec::new(),
        stamp: None,
    };

    follow(&membership, |membership| go_on(membership, delta, NodeId::FIRST))
        .expect("it starts there");

    assert_eq!(read.revision, Revision(0));
    assert_eq!(membership.borrow().view.revision, Revision(1));
    assert!(membership.borrow().live);
}

#[test]
fn a_live_view_without_our_row_means_expulsion_and_a_kept_one_does_not() {
    let membership = |live| Membership { live, ..Membership::default() };

    assert!(matches!(still_a_node(&membership(true), NodeId::FIRST), Err(Ended::Expelled(_))));
    assert!(still_a_node(&membership(false), NodeId::FIRST).is_ok());
}

#[test]
fn what_control_cannot_do_is_a_problem_here_until_it_can() {
    let problems = Problems::default();
    let told =
        |code: &str| v1::ControlProblem { code: code.into(), text: "full".into(), since_unix: 1 };

    hear(&problems, &[told("storage"), told("of a later version")]);
    let codes: Vec<_> = problems.list().into_iter().map(|problem| problem.code.as_str()).collect();
    hear(&problems, &[told("of a later version")]);

    assert_eq!(codes, ["control-trouble", "control-storage"]);
    assert_eq!(problems.list().len(), 1);
    hear(&problems, &[]);
    assert_eq!(problems.list(), []);
}

#[test]
fn only_a_removed_node_is_expelled() {
    let refused = |code, text: &str| ControlError::Refused(Refusal::new(code, text));

    assert!(matches!(judge(refused(Code::NotAllowed, "removed")), Ended::Expelled(_)));
    assert!(matches!(judge(refused(Code::NotAuthenticated, "expired")), Ended::Broken(_)));
    assert!(matches!(judge(refused(Code::ControlAway, "gone")), Ended::Broken(_)));
    assert!(matches!(judge(refused(Code::Fault, "oops")), Ended::Broken(_)));
}
