//! Which last labels are those of domain names, whatever networks and hosts are called.
//!
//! A network may be called `dev`, and `dev` is a top-level domain: whether `web.dev` is meant to be
//! a container or a web site cannot be told. Such names stay those of the domain, or whoever makes
//! a network called `com` would take all of `.com` from every container of the cluster.

use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Generic top-level domains in wide use, and names that have a meaning without the DNS of the
/// Internet: special-use names (RFC 6761, RFC 8375, RFC 9476) and those that private networks use
/// (RFC 6762, appendix G). Country codes and internationalised domains are known by their form.
const LABELS: &str = "\
    academy aero agency alt amazon app apple archi army arpa art asia associates audio auto aws \
    azure baidu band bank bar berlin bet bid bike bio biz blog bond boo book boutique box brussels \
    build builders business buzz bzh cab cafe cam camera camp capital car cards care careers cars \
    casa cash casino cat catering center ceo cern channel chat cheap christmas church city claims \
    click clinic clothing cloud club coach codes coffee college cologne com community company \
    computer construction consulting contact contractors cool coop corp country courses credit \
    cymru cyou dad dance date dating day dealer deals degree delivery democrat dental design dev \
    diamonds diet digital direct directory discount doctor dog domains download earth eco edu \
    education email energy engineer engineering enterprises equipment esq estate eus events \
    example exchange expert express fail faith family fan fans farm fashion film finance financial \
    fish fit fitness flights florist food football foo forsale forum foundation frl fun fund \
    furniture fyi gal gallery game games garden gay gent gift gifts gives glass global gmail golf \
    goog google gov graphics gratis gripe group guide guru hamburg haus health healthcare help \
    hiphop hockey holdings holiday home homes horse hospital host hosting house how icu immo inc \
    industries info ing ink institute insure int internal international intranet invalid \
    investments irish ist istanbul jetzt jewelry jobs kaufen kim kitchen kiwi koeln krd lan land \
    lat law lawyer lease legal lgbt life lighting limited limo link live llc loan loans local \
    localdomain localhost lol london love ltd luxury management map market marketing mba media \
    meme memorial men menu microsoft mil mobi moda mom money monster mortgage moscow mov movie \
    museum name navy net network new news nexus ngo ninja nrw nyc observer one onion onl online \
    ooo org ovh page paris partners parts party pet pharmacy phd photo photography photos pics \
    pictures pizza place plumbing plus poker porn post press private pro productions prof promo \
    properties property pub qpon quebec quest racing radio realty recipes rehab reise reisen ren \
    rent rentals repair report republican rest restaurant review reviews rich rip rocks rodeo rsvp \
    ruhr run saarland sale salon sap sarl sbs school schule science scot security select services \
    sex sexy shiksha shoes shop shopping show singles site ski skin soccer social software solar \
    solutions space sport store stream studio study style sucks supplies supply support surf \
    surgery swiss sydney systems tattoo tax taxi team tech technology tel tennis test theater \
    tickets tienda tips tires tirol today tokyo tools top tours town toys trade trading training \
    travel tube university uno vacations vegas ventures vet video villas vin vip vision vodka vote \
    voyage wales wang watch webcam website wedding wien wiki win wine work works world wtf xxx xyz \
    yachts yandex yoga yokohama you youtube zip zone";

static KNOWN: LazyLock<BTreeSet<&str>> = LazyLock::new(|| LABELS.split(' ').collect());

/// Tells whether names that end in this label, in lower case, may be names of a domain.
pub(super) fn is_domain(label: &str) -> bool {
    let is_country = label.len() == 2 && label.bytes().all(|byte| byte.is_ascii_lowercase());

    is_country || label.starts_with("xn--") || KNOWN.contains(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_known_by_form_and_by_list() {
        for label in ["com", "dev", "de", "xn--p1ai", "local", "internal", "localhost"] {
            assert!(is_domain(label), "{label}");
        }
        for label in ["", "backend", "n1", "db-net", "frontend", "host1", "d", "_tcp"] {
            assert!(!is_domain(label), "{label}");
        }
    }
}
