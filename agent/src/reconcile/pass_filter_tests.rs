//! The order in which policy, guard and endpoints come.

use super::*;

/// These endpoints, under a policy that knows them and these others.
fn guarded(ids: &[u64], others: &[u64]) -> Arc<NetworkDesired> {
    let policy = Policy::parse("[network.n]\ndefault = \"deny\"\n").expect("a policy");
    let name = "n".parse().expect("a name");
    let endpoint =
        |n: &u64| PolicyEndpoint { addresses: vec![address(id(*n))], ..PolicyEndpoint::default() };
    let known: Vec<_> = ids.iter().chain(others).map(endpoint).collect();
    let mode = FilterMode::Enforced;
    let filter = Filter::compile(&policy, &name, known.iter(), BTreeSet::new(), mode);
    let mut desired = Arc::unwrap_or_clone(desired(ids));
    desired.filter = FilterDesired::Filter(Arc::new(filter));

    Arc::new(desired)
}

#[tokio::test]
async fn an_endpoint_comes_in_after_the_policy_knows_it() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());

    for ids in [&[1][..], &[1, 2], &[2, 3]] {
        let desired = guarded(ids, &[]);
        let outcome = run(&mut reconciler, &mut kernel, &desired, Cause::Desired).await;

        assert!(outcome.is_complete, "{outcome:?}");
        assert_eq!(kernel.policy, desired.filter);
        assert_eq!(kernel.veths, ids.iter().map(|n| id(*n)).collect());
    }
    assert_eq!(reconciler.report().drift_healed, 0);
}

#[tokio::test]
async fn without_the_policy_no_endpoint_comes_in_and_nothing_is_forwarded() {
    let (mut kernel, mut reconciler) =
        (Fake { refuses_policy: true, ..Fake::default() }, Reconciler::default());

    let outcome = run(&mut reconciler, &mut kernel, &guarded(&[1], &[]), Cause::Desired).await;

    assert!(!outcome.is_complete && kernel.prepared && !kernel.forwards, "{outcome:?}");
    assert_eq!(kernel.attaches, 0);
    let report = reconciler.report();
    assert_eq!(report.endpoints, [(id(1), EndpointState::HeldUp)].into());
    let why = report.policy.clone().expect("a reason");
    assert!(why.contains("install the package nftables"), "{why}");
    assert!(why.ends_with("nothing is forwarded in the network, and new endpoints stay closed"));

    kernel.refuses_policy = false;
    let outcome = run(&mut reconciler, &mut kernel, &guarded(&[1], &[]), Cause::Resync).await;

    assert!(outcome.is_complete && kernel.forwards, "{outcome:?}");
    assert_eq!(reconciler.report().endpoints, [(id(1), EndpointState::Ready)].into());
    assert_eq!(reconciler.report().policy, None);
}

#[tokio::test]
async fn a_policy_of_before_goes_on_to_decide_where_the_new_one_is_refused() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    run(&mut reconciler, &mut kernel, &guarded(&[1], &[]), Cause::Desired).await;
    let earlier = kernel.policy.clone();
    kernel.refuses_policy = true;

    run(&mut reconciler, &mut kernel, &guarded(&[1, 2], &[]), Cause::Desired).await;

    assert!(kernel.forwards && kernel.policy == earlier);
    let states = [(id(1), EndpointState::Ready), (id(2), EndpointState::HeldUp)];
    assert_eq!(reconciler.report().endpoints, states.into());
    let why = reconciler.report().policy.clone().expect("a reason");
    assert!(why.ends_with("the policy of before decides, and new endpoints stay closed"));
}

#[tokio::test]
async fn an_endpoint_elsewhere_changes_the_policy_and_nothing_is_read_back() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    run(&mut reconciler, &mut kernel, &guarded(&[1], &[]), Cause::Desired).await;
    (kernel.reads, kernel.writes, kernel.enforcements) = (0, 0, 0);

    for _again in 0..2 {
        let desired = guarded(&[1], &[7]);
        let outcome = run(&mut reconciler, &mut kernel, &desired, Cause::Desired).await;

        assert!(outcome.is_complete && !outcome.is_whole, "{outcome:?}");
        assert_eq!(kernel.policy, desired.filter);
        assert_eq!((kernel.reads, kernel.writes, kernel.enforcements), (0, 0, 1));
    }
}

#[tokio::test]
async fn a_policy_that_others_changed_is_put_right_and_counted() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    run(&mut reconciler, &mut kernel, &guarded(&[1], &[]), Cause::Desired).await;
    kernel.is_tampered = true;

    run(&mut reconciler, &mut kernel, &guarded(&[1], &[]), Cause::Resync).await;

    assert!(!kernel.is_tampered);
    assert_eq!(reconciler.report().drift_healed, 1);
}

#[tokio::test]
async fn a_network_without_its_guard_works_and_says_so() {
    let (mut kernel, mut reconciler) =
        (Fake { refuses_guard: true, ..Fake::default() }, Reconciler::default());

    let outcome = run(&mut reconciler, &mut kernel, &desired(&[1]), Cause::Desired).await;

    assert!(outcome.is_complete && kernel.forwards, "{outcome:?}");
    let report = reconciler.report();
    assert_eq!(report.endpoints, [(id(1), EndpointState::Ready)].into());
    let why = report.guard.clone().expect("a reason");
    assert!(why.contains("install the package nftables"), "{why}");

    kernel.refuses_guard = false;
    run(&mut reconciler, &mut kernel, &desired(&[1]), Cause::Resync).await;

    assert_eq!(reconciler.report().guard, None);
    assert!(kernel.guard.knows(id(1)));
}

#[tokio::test]
async fn while_the_guard_cannot_be_changed_no_new_endpoint_comes_in() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    run(&mut reconciler, &mut kernel, &desired(&[1]), Cause::Desired).await;
    kernel.has_busy_guard = true;

    let outcome = run(&mut reconciler, &mut kernel, &desired(&[1, 2]), Cause::Desired).await;

    assert!(!outcome.is_complete && kernel.forwards, "{outcome:?}");
    let states = &reconciler.report().endpoints;
    assert_eq!(states.get(&id(1)), Some(&EndpointState::Ready));
    assert!(matches!(states.get(&id(2)), Some(EndpointState::Failed(_))), "{states:?}");

    kernel.has_busy_guard = false;
    let outcome = run(&mut reconciler, &mut kernel, &desired(&[1, 2]), Cause::Resync).await;

    assert!(outcome.is_complete, "{outcome:?}");
    assert_eq!(reconciler.report().endpoints.get(&id(2)), Some(&EndpointState::Ready));
}

#[tokio::test]
async fn a_guard_that_others_changed_is_put_right_and_counted() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    run(&mut reconciler, &mut kernel, &desired(&[1]), Cause::Desired).await;
    kernel.is_unguarded = true;

    run(&mut reconciler, &mut kernel, &desired(&[1]), Cause::Resync).await;

    assert_eq!(reconciler.report().drift_healed, 1);
}

#[tokio::test]
async fn an_open_network_has_no_policy_and_costs_one_look() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    run(&mut reconciler, &mut kernel, &guarded(&[1], &[]), Cause::Desired).await;
    kernel.enforcements = 0;

    for cause in [Cause::Desired, Cause::Event, Cause::Resync] {
        run(&mut reconciler, &mut kernel, &desired(&[1]), cause).await;
    }

    assert_eq!((&kernel.policy, kernel.enforcements), (&FilterDesired::Open, 1));
    assert!(kernel.forwards);
}
