//! What the broker notes on a message that it moves to the dead letters.

use lapin::types::{AMQPValue, FieldTable};

/// The first time that a message was moved to the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The queue that it was in.
    pub queue: String,
    /// Why: `rejected`, `maxlen`, `expired`, `delivery_limit`.
    pub reason: String,
    /// When, in seconds since the Unix epoch; 0 when that is not known.
    pub at: u64,
}

impl Death {
    /// Reads the headers; nothing when they do not say which queue it was.
    pub(super) fn read(headers: &FieldTable) -> Option<Self> {
        let deaths = match headers.inner().get("x-death") {
            Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice(),
            _ => &[],
        };
        let queue = text(headers, "x-first-death-queue")?;
        let reason = text(headers, "x-first-death-reason").unwrap_or_default();
        let is_first = |table: &&FieldTable| {
            text(table, "queue").as_ref() == Some(&queue) && text(table, "reason").as_ref() == Some(&reason)
        };
        let tables = deaths.iter().filter_map(AMQPValue::as_field_table);
        let at = tables.filter(is_first).find_map(|table| match table.inner().get("time") {
            Some(AMQPValue::Timestamp(seconds)) => Some(*seconds),
            _ => None,
        });
        Some(Self { queue, reason, at: at.unwrap_or_default() })
    }
}

fn text(table: &FieldTable, name: &str) -> Option<String> {
    match table.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldArray;

    use super::*;

    fn table(fields: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in fields {
            table.insert(name.into(), value);
        }
        table
    }

    fn long(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn the_first_death_counts_whatever_came_after_it() {
        let death = |queue: &str, reason: &str, time| {
            let fields =
                [("queue", long(queue)), ("reason", long(reason)), ("time", AMQPValue::Timestamp(time))];
            AMQPValue::FieldTable(table(fields))
        };
        let deaths = FieldArray::from(vec![death("q_dead", "maxlen", 9), death("q_node_1", "rejected", 7)]);
        let headers = table([
            ("x-death", AMQPValue::FieldArray(deaths)),
            ("x-first-death-queue", long("q_node_1")),
            ("x-first-death-reason", long("rejected")),
        ]);
        let expected = Death { queue: "q_node_1".to_owned(), reason: "rejected".to_owned(), at: 7 };
        assert_eq!(Death::read(&headers), Some(expected));
    }

    #[test]
    fn headers_of_another_kind_are_no_death() {
        for (headers, expected) in [
            (table([]), None),
            (table([("x-first-death-queue", AMQPValue::Boolean(true))]), None),
            (
                table([("x-first-death-queue", long("q")), ("x-death", long("q"))]),
                Some(Death { queue: "q".to_owned(), reason: String::new(), at: 0 }),
            ),
        ] {
            assert_eq!(Death::read(&headers), expected, "{headers:?}");
        }
    }
}
