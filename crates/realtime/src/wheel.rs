use tidegate_types::ConnId;

/// Turns per round: each connection has its turn once per round, so there is no timer per connection.
pub(crate) const TURNS: usize = 25;

/// Spreads the connections' recurring work over a round of [`TURNS`] turns. A connection enters at the current turn and
/// so has its first turn one round later.
pub(crate) struct Wheel {
    buckets: [Vec<ConnId>; TURNS],
    turn: usize,
}

impl Wheel {
    pub fn new() -> Self {
        Self { buckets: std::array::from_fn(|_| Vec::new()), turn: 0 }
    }

    pub fn enter(&mut self, conn: ConnId) {
        if let Some(bucket) = self.buckets.get_mut(self.turn) {
            bucket.push(conn);
        }
    }

    /// The next turn begins: calls `visit` for its connections and forgets those for which it returns false.
    pub fn advance(&mut self, visit: impl FnMut(&ConnId) -> bool) {
        self.turn = (self.turn + 1) % TURNS;
        if let Some(bucket) = self.buckets.get_mut(self.turn) {
            bucket.retain(visit);
            if bucket.capacity() > 4 * bucket.len() + 16 {
                bucket.shrink_to_fit();
            }
        }
    }

    /// The connections whose turn was `ago` turns ago.
    pub fn earlier(&self, ago: usize) -> &[ConnId] {
        let turn = (self.turn + TURNS - ago % TURNS) % TURNS;
        self.buckets.get(turn).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_types::ShardId;

    #[test]
    fn a_connection_has_its_first_turn_one_round_after_it_came() {
        let mut wheel = Wheel::new();
        let conn = ConnId { shard: ShardId(0), slot: 1, generation: 1 };
        wheel.advance(|_| true);
        wheel.enter(conn);
        for turn in 1..=TURNS {
            let mut seen = Vec::new();
            wheel.advance(|conn| {
                seen.push(*conn);
                true
            });
            assert_eq!(seen.is_empty(), turn < TURNS, "turn {turn}");
        }
        for _ in 0..20 {
            wheel.advance(|_| true);
        }
        assert_eq!(wheel.earlier(20), [conn]);
        assert_eq!(wheel.earlier(19), []);
    }
}
