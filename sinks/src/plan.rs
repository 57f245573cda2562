//! Brings a batch's changes into an order that allows multi-row statements.
//!
//! Changes of different rows commute, so they may be gathered into one statement a table and
//! operation; changes of one row keep their order. Each change gets a *level*: one more than that
//! of the row's change before it where the two can't share a group. Groups are executed level by
//! level. Rows of a table with a second unique key may exclude each other by that key, so there
//! the whole table counts as one row.
//!
//! All of it happens inside one commit, so no reader sees the difference.

use std::collections::HashMap;

use unitflow_change::envelope::Op;
use xxhash_rust::xxh3::xxh3_128;

/// What changes must have in common to share a group: the table, the operation and the columns
/// (as numbered by the caller).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The caller's number of the table and the columns of the row image.
    pub columns: usize,
    /// The operation.
    pub op: Op,
}

/// Assigns each change to a group.
#[derive(Debug, Default)]
pub struct Plan {
    rows: HashMap<u128, (u32, Shape)>,
    groups: HashMap<(u32, Shape), usize>,
    order: Vec<(u32, usize)>,
}

impl Plan {
    /// Forgets a batch and keeps the buffers.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.groups.clear();
        self.order.clear();
    }

    /// The group of the next change; `identity` is its row's key bytes, or the table's where its
    /// rows don't commute. Groups are numbered from 0 in the order in which they appear.
    pub fn place(&mut self, identity: &[u8], shape: Shape) -> usize {
        let level = match self.rows.get(&xxh3_128(identity)) {
            None => 0,
            Some((level, before)) if *before == shape => *level,
            Some((level, _)) => level + 1,
        };
        self.rows.insert(xxh3_128(identity), (level, shape));
        let next = self.groups.len();
        let group = *self.groups.entry((level, shape)).or_insert(next);
        if group == next {
            self.order.push((level, group));
        }
        group
    }

    /// The groups in the order in which they are to be executed.
    pub fn in_order(&mut self) -> impl Iterator<Item = usize> + '_ {
        self.order.sort_unstable();
        self.order.iter().map(|(_, group)| *group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(op: Op) -> Shape {
        Shape { columns: 0, op }
    }

    #[test]
    fn different_rows_share_a_group_and_one_row_keeps_its_order() {
        let mut plan = Plan::default();
        let insert_a = plan.place(b"a", shape(Op::Insert));
        let update_a = plan.place(b"a", shape(Op::Update));
        let update_b = plan.place(b"b", shape(Op::Update));
        let insert_c = plan.place(b"c", shape(Op::Insert));
        let delete_a = plan.place(b"a", shape(Op::Delete));
        let again_a = plan.place(b"a", shape(Op::Insert));
        assert_eq!(insert_a, insert_c);
        let order: Vec<usize> = plan.in_order().collect();
        let at = |group| order.iter().position(|g| *g == group).unwrap();
        assert!(at(insert_a) < at(update_a));
        assert!(at(update_a) < at(delete_a));
        assert!(at(delete_a) < at(again_a));
        assert!(at(update_b) < at(delete_a));
    }

    #[test]
    fn the_order_holds_for_every_row_in_a_long_random_batch() {
        // Each row goes through insert, update, delete over and over; a group's changes are
        // executed in the order in which they were placed.
        let mut plan = Plan::default();
        let mut placed = Vec::new();
        let mut state = 7_u64;
        let mut next = [0_usize; 5];
        for time in 0..2_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let row = (state >> 33) as usize % next.len();
            let op = [Op::Insert, Op::Update, Op::Update, Op::Delete][next[row] % 4];
            next[row] += 1;
            placed.push((row, time, plan.place(&[row as u8], shape(op))));
        }
        let rank: HashMap<usize, usize> =
            plan.in_order().enumerate().map(|(rank, group)| (group, rank)).collect();
        for row in 0..next.len() {
            let of_row: Vec<_> = placed.iter().filter(|(r, ..)| *r == row).collect();
            assert!(of_row.windows(2).all(|pair| rank[&pair[0].2] <= rank[&pair[1].2]));
        }
    }
}
