import Synchronization

/// Held by a reader between learning of versions and fetching their values: records compacted meanwhile are kept until it is
/// released, or until it has been held too long (`ReplicaService.Options.pinMillisecondsMax`).
package final class ReadPin: Sendable {
    private let pins: ReadPins
    private let epoch: UInt64
    private let isReleased = Atomic(false)
    init(pins: ReadPins, epoch: UInt64) { self.pins = pins; self.epoch = epoch }
    /// Letting go of the last reference does the same.
    package func release() {
        if isReleased.exchange(true, ordering: .relaxed) == false { pins.release(epoch) }
    }
    deinit { release() }
}

/// Pins counted by epoch. Each compaction ends an epoch; its records may go when no pin of that epoch or an earlier one is left.
final class ReadPins: Sendable {
    private struct State {
        var epoch: UInt64 = 0
        /// Ascending; only the last may be empty.
        var counts: [(epoch: UInt64, pins: Int)] = [(0, 0)]
    }
    private let state = Mutex(State())

    func pin() -> ReadPin {
        ReadPin(pins: self, epoch: state.withLock { state in
            state.counts[state.counts.count - 1].pins += 1
            return state.epoch
        })
    }
    fileprivate func release(_ epoch: UInt64) {
        state.withLock { state in
            guard let position = state.counts.firstIndex(where: { $0.epoch == epoch }) else { preconditionFailure("a pin is released once") }
            state.counts[position].pins -= 1
            state.counts.removeAll { $0.pins == 0 && $0.epoch != state.epoch }
        }
    }
    /// Ends the present epoch and answers its number.
    func seal() -> UInt64 {
        state.withLock { state in
            let ended = state.epoch
            state.epoch += 1
            state.counts.removeAll { $0.pins == 0 }
            state.counts.append((state.epoch, 0))
            return ended
        }
    }
    func isHeld(through epoch: UInt64) -> Bool { state.withLock { $0.counts.contains { $0.epoch <= epoch && $0.pins > 0 } } }
}
