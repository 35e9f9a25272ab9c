//! How the policy is replaced, and what is kept of those before.

use overlay_core::policy::{FilterMode, MAX_POLICY};
use overlay_core::{Change, NodeId, RowKey};
use overlay_proto::{Code, Refusal};

use super::testing::*;
use super::tests::{Fixture, fixture};
use super::*;

const DENY: &str = "# mine\n[network.net]\ndefault = \"deny\"\n";
const ALLOW: &str = "[network.net]\ndefault = \"allow\"\n";

fn apply_as(fixture: &mut Fixture, node: usize, operation: Operation) -> Result<Reply, Refusal> {
    let actor = Actor::Node(fixture.nodes[node]);

    ask(&mut fixture.state, actor, operation)
}

/// Applies as an admin; returns the revision of the policy that is live then, and whether it is
/// new.
fn applied(fixture: &mut Fixture, operation: Operation) -> (u64, bool) {
    match apply_as(fixture, 0, operation) {
        Ok(Reply::Policy { live: Some(live), changed }) => (live.revision, changed),
        other => panic!("{other:?}"),
    }
}

fn deny() -> Operation {
    policy(DENY, FilterMode::Enforced, None)
}

fn roll_back(to: u64) -> Operation {
    Operation::RollBackPolicy { to, expected: None }
}

fn refusal(fixture: &mut Fixture, operation: Operation) -> Refusal {
    let before = fixture.state.clone();
    let refusal = apply_as(fixture, 0, operation).expect_err("it is refused");
    assert_eq!(fixture.state, before, "what is live stays");

    refusal
}

fn text(fixture: &Fixture) -> Option<String> {
    fixture.state.view().policy.as_ref().map(|live| live.text.clone())
}

#[test]
fn a_policy_is_live_in_canonical_form_and_kept_as_it_was_given() {
    let mut fixture = fixture("10.9.0.0/16");

    let first = applied(&mut fixture, deny());
    let second = applied(&mut fixture, policy(DENY, FilterMode::Shadow, Some(1)));

    assert_eq!([first, second], [(1, true), (2, true)]);
    let live = fixture.state.view().policy.clone().expect("a policy");
    let canonical = "[network.net]\ndefault = \"deny\"\n";
    assert_eq!((live.revision, live.mode, &*live.text), (2, FilterMode::Shadow, canonical));
    let kept = &fixture.state.policies()[&1];
    assert_eq!((kept.at, kept.mode, &*kept.document), (NOW, Some(FilterMode::Enforced), DENY));
    let by = kept.by.as_ref().expect("a node");
    assert_eq!((by.node, by.name.as_str()), (fixture.nodes[0], "node0"));
    assert_eq!((kept.rolled_back_to, kept.revision), (None, 1));
    check_invariants(&fixture.state);
}

#[test]
fn only_admins_replace_the_policy() {
    let mut fixture = fixture("10.9.0.0/16");
    applied(&mut fixture, deny());

    for operation in [policy(ALLOW, FilterMode::Enforced, None), roll_back(0), roll_back(9)] {
        let refused = apply_as(&mut fixture, 1, operation).expect_err("no admin");
        assert_eq!(refused.code, Code::NotAllowed);
        assert!(refused.message.contains("needs the role admin"), "{refused}");
    }
    assert!(PolicySubjects::of(&fixture.state, Actor::Node(fixture.nodes[1])).is_err());
    assert_eq!(text(&fixture).as_deref(), Some("[network.net]\ndefault = \"deny\"\n"));
}

#[test]
fn what_is_live_already_is_no_new_revision() {
    let mut fixture = fixture("10.9.0.0/16");
    applied(&mut fixture, deny());
    let revision = fixture.state.view().revision;

    // As after an answer that was lost: what was expected is no longer live.
    let again = applied(&mut fixture, policy(DENY, FilterMode::Enforced, Some(0)));

    assert_eq!((again, fixture.state.view().revision), ((1, false), revision));
    assert_eq!(applied(&mut fixture, roll_back(1)), (1, false));
}

#[test]
fn a_policy_replaces_the_one_that_the_caller_knows() {
    let mut fixture = fixture("10.9.0.0/16");
    let allow = |expected| policy(ALLOW, FilterMode::Enforced, expected);

    let none = refusal(&mut fixture, allow(Some(1)));
    applied(&mut fixture, deny());
    let moved = refusal(&mut fixture, allow(Some(0)));
    let back = Operation::RollBackPolicy { to: 0, expected: Some(7) };
    let rolled_back = refusal(&mut fixture, back);

    assert_eq!([none.code, moved.code, rolled_back.code], [Code::WrongState; 3]);
    assert_eq!(
        moved.message,
        "revision 1 of the policy is live, and no policy was expected; nothing is changed: \
         `overlayctl policy diff FILE` shows what differs"
    );
    assert!(none.message.starts_with("no policy is live, and revision 1 of the policy"), "{none}");
    assert_eq!(applied(&mut fixture, allow(Some(1))), (2, true));
}

#[test]
fn a_mistake_is_told_with_its_place() {
    let subjects = PolicySubjects::default();
    let mistake = |text: &str| {
        let refused = ExaminedPolicy::new(text.to_owned(), &subjects).expect_err("a mistake");
        Refusal::from(RegistryError::from(refused))
    };

    let one = mistake("\nx = 1");
    let three = mistake("x = 1\ny = 1\nz = 1\n");
    let long = mistake(&"#".repeat(MAX_POLICY + 1));

    assert_eq!(one.code, Code::InvalidInput);
    assert!(one.message.starts_with("line 2, column 1: x: there is no such key"), "{one}");
    let others = "(and 2 more mistakes: `overlayctl policy test FILE` lists them)";
    assert!(three.message.ends_with(others), "{three}");
    assert!(long.message.contains("more than 1048576"), "{long}");
}

/// A node with an endpoint `web` with a label.
fn with_endpoint(fixture: &mut Fixture) -> NodeId {
    let (network, node) = (fixture.network, fixture.nodes[1]);
    let enter = Operation::EnterNetwork { network, lane_keys: vec![[1; 32].into()], blocks: 1 };
    let Ok(Reply::Member(member)) = apply_as(fixture, 1, enter) else { panic!("it may enter") };
    let first = u32::from(member.blocks[0].prefix.network());
    let row = overlay_core::Endpoint {
        id: overlay_core::EndpointId::FIRST,
        network,
        node,
        name: "web".parse().expect("a name"),
        aliases: std::collections::BTreeSet::new(),
        addresses: vec![std::net::Ipv4Addr::from(first + 9).into()],
        labels: [("role".to_owned(), "web".to_owned())].into(),
        runtime: overlay_core::Runtime::Run,
        group: None,
        container: None,
        taken: Default::default(),
    };
    apply_as(fixture, 1, Operation::PutEndpoints(vec![row])).expect("it is free");

    node
}

/// Examines a document with what the admin of a cluster sees, as the service does.
fn examined(fixture: &Fixture, document: &str) -> ExaminedPolicy {
    let subjects = PolicySubjects::of(&fixture.state, Actor::Node(fixture.nodes[0]));

    ExaminedPolicy::new(document.to_owned(), &subjects.expect("an admin")).expect("a policy")
}

#[test]
fn tests_are_tried_against_the_endpoints_that_are_there() {
    let mut fixture = fixture("10.9.0.0/16");
    let document_with = |allowed: &str, test: &str| {
        format!(
            "[network.net]\ndefault = \"deny\"\n\n\
             [[rule]]\nname = \"a\"\nfrom = {{ role = \"web\" }}\nto = \"any\"\n\
             allow = {allowed}\n\n\
             [[test]]\nfrom = \"web\"\nto = \"web\"\n{test} = [\"tcp/80\"]\n"
        )
    };
    let document = &document_with("[\"tcp/80\"]", "allow");
    let operation = |fixture: &Fixture, document: &str| {
        let (policy, mode) = (examined(fixture, document), FilterMode::Enforced);
        Operation::ApplyPolicy(ApplyPolicy { policy, mode, expected: None, is_strict: false })
    };

    let early = operation(&fixture, document);
    let missing = refusal(&mut fixture, early);
    with_endpoint(&mut fixture);
    let bad = operation(&fixture, &document_with("\"any\"", "deny"));
    let failing = refusal(&mut fixture, bad);
    let good = operation(&fixture, document);

    assert_eq!([missing.code, failing.code], [Code::InvalidInput; 2]);
    assert!(missing.message.starts_with("line 10: test 1: there is no endpoint web"), "{missing}");
    assert!(failing.message.starts_with("line 10: test 1: tcp/80 from web (10.9."), "{failing}");
    assert!(failing.message.ends_with("is allowed by rule a; nothing is changed"), "{failing}");
    assert_eq!(applied(&mut fixture, good), (1, true));
    let unused = document.replace("role = \"web\"", "role = \"db\"");
    let unmatched = examined(&fixture, &unused);
    let warnings = unmatched.warnings().collect::<Vec<_>>().join("\n");
    assert!(warnings.contains("rule a: no endpoint matches its from"), "{warnings}");
    let all = examined(&fixture, &unused).all_warnings().join("\n");
    assert!(
        all.contains("test 1: tcp/80 from web") && all.contains("no endpoint matches"),
        "{all}"
    );
}

#[test]
fn where_that_is_asked_for_what_does_nothing_is_refused_with_its_line() {
    let mut fixture = fixture("10.9.0.0/16");
    with_endpoint(&mut fixture);
    let unused = "[network.net]\ndefault = \"deny\"\n\n\
                  [[rule]]\nname = \"a\"\nnetwork = \"net\"\nfrom = { role = \"wbe\" }\n\
                  to = \"any\"\nallow = \"any\"\n";
    let missing = format!("{unused}\n[network.nte]\ndefault = \"deny\"\n");
    let operation = |fixture: &Fixture, document: &str, is_strict| {
        let (policy, mode) = (examined(fixture, document), FilterMode::Enforced);
        Operation::ApplyPolicy(ApplyPolicy { policy, mode, expected: None, is_strict })
    };

    let strict = [unused, &missing].map(|document| operation(&fixture, document, true));
    let refused = strict.map(|operation| refusal(&mut fixture, operation));

    assert_eq!(refused[0].code, Code::InvalidInput);
    let told = refused.map(|refusal| refusal.message);
    assert!(told[0].starts_with("line 4: rule a: no endpoint matches its from"), "{told:?}");
    assert!(told[1].starts_with("line 11: there is no network nte"), "{told:?}");
    assert!(told[1].contains("1 more warnings"), "{told:?}");
    let lenient = operation(&fixture, unused, false);
    assert_eq!(applied(&mut fixture, lenient), (1, true));
}

#[test]
fn a_rollback_is_a_new_revision_with_the_document_and_the_mode_of_the_earlier_one() {
    let mut fixture = fixture("10.9.0.0/16");
    applied(&mut fixture, policy(DENY, FilterMode::Shadow, None));
    applied(&mut fixture, policy(ALLOW, FilterMode::Enforced, None));

    let back = applied(&mut fixture, roll_back(1));

    assert_eq!(back, (3, true));
    let kept = &fixture.state.policies()[&3];
    let of_kept = (kept.mode, &*kept.document, kept.rolled_back_to);
    assert_eq!(of_kept, (Some(FilterMode::Shadow), DENY, Some(1)));
    let live = fixture.state.view().policy.clone().expect("a policy");
    assert_eq!((live.revision, live.mode), (3, FilterMode::Shadow));
    let unknown = refusal(&mut fixture, roll_back(4));
    assert_eq!(unknown.code, Code::NotFound);
    assert!(unknown.message.starts_with("revision 4 of the policy is not kept"), "{unknown}");
}

#[test]
fn a_policy_is_taken_away_and_counted_on() {
    let mut fixture = fixture("10.9.0.0/16");
    let none = apply_as(&mut fixture, 0, roll_back(0)).expect("nothing is to do");
    assert_eq!(none, Reply::Policy { live: None, changed: false });
    applied(&mut fixture, deny());

    let removed = applied(&mut fixture, roll_back(0));

    assert_eq!((removed, text(&fixture)), ((2, true), None));
    assert_eq!(applied(&mut fixture, roll_back(0)), (2, false));
    assert_eq!(applied(&mut fixture, policy(ALLOW, FilterMode::Enforced, Some(0))), (3, true));
    assert_eq!(applied(&mut fixture, roll_back(2)), (4, true));
    assert_eq!((text(&fixture), fixture.state.policies()[&4].mode), (None, None));
    check_invariants(&fixture.state);
}

#[test]
fn the_latest_are_kept_as_far_as_there_is_room() {
    let mut fixture = fixture("10.9.0.0/16");
    let kept = |fixture: &Fixture| {
        let all = fixture.state.policies();
        (*all.keys().next().expect("one"), all.len())
    };
    for n in 0..limits::MAX_POLICIES + 3 {
        applied(&mut fixture, policy(&format!("# {n}\n{DENY}"), FilterMode::Enforced, None));
    }
    assert_eq!(kept(&fixture), (4, limits::MAX_POLICIES));

    let rest = "#".repeat(MAX_POLICY - DENY.len() - 16);
    let long = |n: usize| format!("{DENY}{rest}\n# {n}");
    for n in 0..9 {
        applied(&mut fixture, policy(&long(n), FilterMode::Enforced, None));
    }

    assert_eq!(kept(&fixture).1, limits::MAX_POLICY_BYTES / MAX_POLICY);
    check_invariants(&fixture.state);
    assert_eq!(refusal(&mut fixture, roll_back(35)).code, Code::NotFound);
}

#[test]
fn an_operator_of_control_has_no_name() {
    let mut fixture = fixture("10.9.0.0/16");

    ask(&mut fixture.state, Actor::Operator, deny()).expect("an operator may");

    assert_eq!(fixture.state.policies()[&1].by, None);
}

#[test]
fn a_store_whose_policy_is_not_understood_or_not_the_last_is_refused() {
    let mut fixture = fixture("10.9.0.0/16");
    applied(&mut fixture, deny());
    let mut row = fixture.state.view().policy.as_deref().cloned().expect("a policy");

    let mut stale = fixture.state.clone();
    stale.commit([Record::Row(Change::Removed(RowKey::Policy))]);
    row.text = "of = \"tomorrow\"".to_owned();
    fixture.state.commit([Record::Row(Change::Policy(row.clone()))]);

    assert_eq!(stale.contradiction(), Some(Contradiction::PolicyHistory));
    assert_eq!(fixture.state.contradiction(), Some(Contradiction::Policy));
    let seen = fixture.state.visible_row(fixture.nodes[0], RowKey::Policy);
    assert_eq!(seen, Some(Change::Policy(row)), "no policy would open all networks");
}
