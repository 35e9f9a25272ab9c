use proptest::prelude::*;

use super::*;
use crate::policy::testing::EXAMPLE;

const RULE: &str = "[[rule]]\nname = \"a\"\nfrom = \"any\"\nto = \"any\"\nallow = \"any\"\n";

/// Returns the mistakes of a document, each in one line.
fn mistakes(text: &str) -> Vec<String> {
    let invalid = Policy::parse(text).expect_err("a mistake");

    invalid.mistakes.iter().map(ToString::to_string).collect()
}

/// Returns the mistakes of a rule with one line of it replaced, without those of its place.
fn mistakes_of(key: &str, line: &str) -> Vec<String> {
    let lines: Vec<_> =
        RULE.lines().map(|own| if own.starts_with(key) { line } else { own }).collect();
    let place = |mistake: &String| {
        let (_, rest) = mistake.split_once(": ").expect("a place");
        rest.to_owned()
    };

    mistakes(&lines.join("\n")).iter().map(place).collect()
}

#[test]
fn the_example_is_a_policy_and_so_is_nothing() {
    let policy = Policy::parse(EXAMPLE).expect("the example");

    assert_eq!((policy.rules.len(), policy.tests.len(), policy.defaults.len()), (1, 1, 1));
    assert_eq!(Policy::parse(""), Ok(Policy::default()));
}

#[test]
fn a_mistake_has_line_column_key_reason_and_remedy() {
    let text = EXAMPLE.replace("log = true", "log = true\nlogg = true");

    assert_eq!(
        mistakes(&text),
        ["line 11, column 1: rule.logg: there is no such key: there are allow, deny, from, log, \
          name, network, to"]
    );
    assert_eq!(
        mistakes("[network.shop]\n  default = \"never\""),
        ["line 2, column 13: network.shop.default: \"never\" is no default: write \"allow\" or \
          \"deny\""]
    );
}

#[test]
fn every_mistake_is_told_in_the_order_of_the_document() {
    let text = "[network.shop]\nx = 1\n[[rule]]\nallow = []\n[[test]]\nfrom = 7\n";

    let lines: Vec<_> = Policy::parse(text).expect_err("mistakes").mistakes;

    let places: Vec<_> = lines.iter().map(|one| (one.line, one.key.as_str())).collect();
    assert_eq!(
        places,
        [
            (1, "network.shop"),
            (2, "network.shop.x"),
            (3, "rule"),
            (3, "rule"),
            (3, "rule"),
            (4, "rule.allow"),
            (5, "test"),
            (5, "test"),
            (6, "test.from"),
        ]
    );
}

#[test]
fn broken_toml_is_told_with_its_place() {
    let mistakes = mistakes("[network.shop]\ndefault = \"deny\n");

    assert!(mistakes[0].starts_with("line 2, column "), "{mistakes:?}");
    assert!(mistakes[0].ends_with(": write it as TOML 1.0 has it"), "{mistakes:?}");
}

#[test]
fn a_file_that_was_cut_off_is_refused_or_has_whole_rules() {
    let whole = Policy::parse(EXAMPLE).expect("the example");
    let mut refused = 0;
    for end in 0..EXAMPLE.len() {
        match Policy::parse_file(&EXAMPLE[..end]) {
            Err(invalid) => {
                refused += 1;
                let first = &invalid.mistakes[0];
                assert!((1..=EXAMPLE[..end].lines().count().max(1)).contains(&first.line));
                assert!(!first.reason.is_empty(), "{invalid}");
            }
            Ok(cut) => {
                assert_eq!(cut.defaults, whole.defaults);
                for (cut, whole) in cut.rules.into_iter().zip(&whole.rules) {
                    // It comes last, and opens nothing.
                    assert_eq!(PolicyRule { log: whole.log, ..cut }, *whole);
                }
            }
        }
    }

    assert!(refused > EXAMPLE.len() / 2, "{refused}");
}

#[test]
fn a_file_that_says_nothing_is_refused() {
    let test = "[[test]]\nfrom = { a = \"b\" }\nto = { a = \"b\" }\nallow = \"any\"\n";
    for text in ["", "# nothing\n", test] {
        let invalid = Policy::parse_file(text).expect_err("it says nothing");
        let told = "line 1, column 1: there is no rule and no default, and every network would";
        assert!(invalid.to_string().starts_with(told), "{invalid}");
    }
}

#[test]
fn keys_that_are_there_twice_are_mistakes() {
    assert!(
        !mistakes("[network.a]\ndefault = \"deny\"\n[network.a]\ndefault = \"allow\"").is_empty()
    );
    assert_eq!(
        mistakes("[network.a]\ndefault = \"deny\"\n[network.A]\ndefault = \"allow\""),
        ["line 2, column 11: network.a: the network is there twice, in upper and in lower case: \
          remove one"]
    );
    let twice = format!("{RULE}{}", RULE.replace("\"a\"", "\"A\""));
    assert_eq!(
        mistakes(&twice),
        ["line 6, column 1: rule.name: the rule of line 1 has the name a already: give it a name \
          of its own"]
    );
}

#[test]
fn a_rule_allows_or_denies() {
    let both = format!("{RULE}deny = [\"icmp\"]");

    assert_eq!(
        mistakes(&both),
        ["line 6, column 8: rule.deny: the rule allows and denies: make two rules of it, in the \
          order in which they are to be tried"]
    );
    assert_eq!(
        mistakes_of("allow", ""),
        ["rule: the rule neither allows nor denies: write allow = [\"tcp/80\"], or deny = \"any\""]
    );
}

#[test]
fn lists_are_not_empty_not_long_and_of_terms() {
    let long = format!("allow = [{}]", "\"icmp\",".repeat(MAX_TERMS + 1));
    for (line, reason) in [
        ("allow = []", "the list is empty"),
        (&long, "the list has 65 entries, more than 64"),
        ("allow = [\"tcp/99999\"]", "\"tcp/99999\" is not a protocol with ports"),
        ("allow = [80]", "an entry is of type integer"),
        ("allow = \"tcp/80\"", "it is no list"),
        ("allow = [\"any\", \"icmp\"]", "\"any\" is every protocol, and others stand beside it"),
    ] {
        let mistakes = mistakes_of("allow", line);
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].starts_with(&format!("rule.allow: {reason}: ")), "{mistakes:?}");
    }
}

#[test]
fn selectors_ask_for_what_endpoints_can_have() {
    let many: Vec<_> = (0..=MAX_CRITERIA).map(|n| format!("a{n} = \"\"")).collect();
    let many = format!("from = {{ {} }}", many.join(", "));
    let long = format!("from = {{ a = \"{}\" }}", "x".repeat(MAX_LABEL + 1));
    let crowd = format!("from = [{}]", "{ a = \"b\" },".repeat(MAX_SELECTORS + 1));
    for (line, mistake) in [
        ("from = \"web1\"", "rule.from: \"web1\" alone selects nothing: write { name = \"web1\" }"),
        ("from = {}", "rule.from: it asks for nothing: "),
        ("from = []", "rule.from: the list has 0 entries: write 1 to 16"),
        ("from = [\"any\"]", "rule.from: it is of type string: "),
        (&crowd, "rule.from: the list has 17 entries: "),
        (&many, "rule.from: it asks for more than 16 things: "),
        (&long, "rule.from.a: no endpoint can have such a label: "),
        ("from = { a = 1 }", "rule.from.a: it is of type integer: write a text in quotes"),
        ("from = { a.b = \"c\" }", "rule.from.a: it is a table, and the value of a label is a"),
        ("from = { a = \"b\\n\" }", "rule.from.a: no endpoint can have such a label: "),
        ("from = { \"\" = \"b\" }", "rule.from.: no endpoint can have such a label: "),
        (
            "from = { a = \"b\", labels = { a = \"c\" } }",
            "rule.from: the label \"a\" is there twice",
        ),
        ("from = { name = \"a b\" }", "rule.from.name: \"a b\" is not a pattern of names: "),
        ("from = { network = \"*\" }", "rule.from.network: \"*\" is not a name: "),
        ("from = { node = \"a\" }", "rule.from.node: it is of type string: write labels such as"),
        ("from = { node = {} }", "rule.from.node: there are 0 labels: "),
        (
            "from = { cidr = \"10.0.0.1/8\" }",
            "rule.from.cidr: 10.0.0.1/8 has bits beyond its length: \
          write \"10.0.0.0/8\"",
        ),
        ("from = { cidr = \"ten\" }", "rule.from.cidr: \"ten\" is not a prefix: "),
    ] {
        let mistakes = mistakes_of("from", line);
        assert_eq!(mistakes.len(), 1, "{line}: {mistakes:?}");
        assert!(mistakes[0].starts_with(mistake), "{line}: {mistakes:?}");
    }
}

#[test]
fn sides_of_tests_are_one_endpoint_each() {
    for (from, reason) in [
        ("{ network = \"ops\" }", "a test is about one network"),
        ("{ name = \"web*\" }", "a test is about one endpoint"),
        ("{ cidr = \"10.0.0.0/8\" }", "a test is about one endpoint"),
        ("\"a b\"", "\"a b\" is not a name"),
        ("[]", "it is of type array"),
    ] {
        let text = format!("[[test]]\nfrom = {from}\nto = \"b\"\nallow = \"any\"");
        let mistakes = mistakes(&text);
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        let wanted = format!("line 2, column 8: test.from: {reason}: ");
        assert!(mistakes[0].starts_with(&wanted), "{mistakes:?}");
    }
    assert_eq!(
        mistakes("[[test]]\nfrom = \"a\"\nto = \"b\""),
        ["line 1, column 1: test: the test says neither what must pass nor what must not: write \
          allow = [\"tcp/80\"], or deny = [\"tcp/22\"]"]
    );
}

#[test]
fn tables_are_written_as_tables() {
    for text in
        ["rule = 1", "network = \"shop\"", "[rule]\nname = \"a\"", "rule = [1]", "test = [[]]"]
    {
        let mistakes = mistakes(text);
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].contains(": it is of type "), "{mistakes:?}");
    }
    assert_eq!(
        mistakes("network.shop = \"deny\""),
        ["line 1, column 9: network.shop: it is no table: write [network.shop]"]
    );
}

#[test]
fn a_document_has_a_bound_in_every_direction() {
    let rules = RULE.repeat(MAX_RULES + 1);
    assert_eq!(
        mistakes(&rules),
        ["line 1, column 1: rule: there are 2001 of them, more than 2000: select by labels, and \
          use ranges of ports"]
    );
    let networks: String =
        (0..=MAX_NETWORKS).map(|n| format!("network.n{n}.default = \"deny\"\n")).collect();
    assert_eq!(mistakes(&networks).len(), 1);
    let odd: Vec<_> = (0..MAX_TERMS).map(|n| format!("\"tcp/{}\"", 2 * n)).collect();
    let wide = |n: usize| {
        RULE.replace("\"a\"", &format!("\"r{n}\""))
            .replace("allow = \"any\"", &format!("allow = [{}]", odd.join(", ")))
    };
    let terms: String = (0..=MAX_ALL_TERMS / MAX_TERMS).map(wide).collect();
    assert!(mistakes(&terms)[0].contains("more than 10000 terms together"));
    let long = format!("# {}", "x".repeat(MAX_POLICY));
    assert!(mistakes(&long)[0].contains("the document has 1048578 bytes, more than 1048576"));
}

#[test]
fn what_is_longer_in_canonical_form_than_may_be_stored_is_refused() {
    let selectors: Vec<_> = (0..16).map(|n| format!("{{a{n}='{}'}}", "\"".repeat(40))).collect();
    let rule = |n: usize| {
        let side = selectors.join(",");
        RULE.replace("\"a\"", &format!("\"r{n}\"")).replace("\"any\"\nto", &format!("[{side}]\nto"))
    };
    let text: String = (0..1_000).map(rule).collect();
    assert!(text.len() < MAX_POLICY, "{}", text.len());

    assert_eq!(
        mistakes(&text),
        ["line 1, column 1: written out, the document has more than 1048576 bytes: select by \
          labels rather than by names"]
    );
}

#[test]
fn tables_within_tables_without_end_are_mistakes() {
    for (open, close) in [("{ a = ", "}"), ("[", "]")] {
        let text = format!("x = {}1{}", open.repeat(5_000), close.repeat(5_000));
        assert!(Policy::parse(&text).is_err());
    }
    assert!(Policy::parse(&format!("[{}x]", "a.".repeat(100_000))).is_err());
}

proptest! {
    #[test]
    fn no_text_is_too_strange(text in "\\PC{0,60}") {
        let _either = Policy::parse(&text);
    }

    #[test]
    fn no_broken_policy_is_too_strange(
        policy in crate::policy::testing::policy(),
        at in any::<prop::sample::Index>(),
        gone in 0..9usize,
        new in "[\\[\\]{}=\"\\.a-c0-9\\n]{0,4}",
    ) {
        let mut text: Vec<_> = policy.to_string().chars().collect();
        prop_assume!(!text.is_empty());
        let at = at.index(text.len());
        text.splice(at..(at + gone).min(text.len()), new.chars());
        let text: String = text.into_iter().collect();

        match Policy::parse(&text) {
            Ok(policy) => prop_assert_eq!(Policy::parse(&policy.to_string()), Ok(policy)),
            Err(invalid) => {
                let lines = text.lines().count().max(1) + 1;
                prop_assert!(!invalid.mistakes.is_empty());
                for mistake in invalid.mistakes {
                    prop_assert!((1..=lines).contains(&mistake.line) && mistake.column >= 1);
                    prop_assert!(!mistake.reason.is_empty() && !mistake.remedy.is_empty());
                }
            }
        }
    }
}
