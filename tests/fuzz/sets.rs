//! GTID sets as servers, operators and position records write them.

use unitflow_change::gtid::{Gtid, GtidSet};
use unitflow_harness::random::Random;

use crate::{damage, fuzz};

const SETS: [&str; 8] = [
    "",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7:9-12:tag:1-3,\n 4e11fa47-71ca-11e1-9e33-c80aa9429562:9223372036854775806",
    "3E11FA47-71CA-11E1-9E33-C80AA9429562:a_tag_of_thirty_two_characters_x:1, 3e11fa47-71ca-11e1-9e33-c80aa9429562:2",
    "0-1-40",
    "0-1-40,1-2-3,4294967295-4294967295-18446744073709551615",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:23",
    "0-1-41",
];

type Reader = fn(&str) -> Option<GtidSet>;

/// Each kind by its own name, and by what tells kinds apart.
const READERS: [Reader; 3] = [
    |text| GtidSet::parse_mysql(text).ok(),
    |text| GtidSet::parse_mariadb(text).ok(),
    |text| text.parse().ok(),
];

fn damaged(random: &mut Random) -> String {
    let mut text = SETS[random.place(SETS.len())].as_bytes().to_vec();
    if random.below(4) > 0 {
        let other = SETS[random.place(SETS.len())].as_bytes();
        damage::text(random, &mut text, &[other]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn gtid_sets() {
    fuzz(
        "GTID sets",
        |random| (damaged(random), damaged(random)),
        |(one, other)| {
            let _ = one.parse::<Gtid>();
            for read in READERS {
                let Some(one) = read(one) else { continue };
                let again = read(&one.to_string());
                assert_eq!(again.as_ref(), Some(&one), "it is written otherwise than read");
                assert!(one.is_subset(&one) && one.missing(&one).is_empty());
                let Some(other) = read(other) else { continue };
                let Some(both) = one.union(&other) else { continue };
                // Of two servers that took writes in one domain, MariaDB's text can name one only.
                if !matches!(both, GtidSet::Mysql(_)) {
                    continue;
                }
                assert!(
                    one.is_subset(&both) && other.is_subset(&both),
                    "{one} and {other}: {both}"
                );
                let left = both.subtract(&one);
                assert!(left.is_subset(&other), "{both} without {one} is {left}");
            }
        },
        |input| format!("{input:?}"),
    );
}
