import Basics
import MVCC
import Synchronization

/// Records that are applied and not yet durable in the record lane, for readers on any thread.
///
/// 1. Applied records are inserted before anyone is told of them.
/// 2. A checkpoint closes a generation: what was inserted before belongs to it.
/// 3. When the checkpoint is durable its records are removed, unless a later generation replaced them (a reseal).
///
/// A reader looks here first and in the record lane after: whatever is missing here was durable there before.
final class Overlay: Sendable {
    private struct Slot { var generation: UInt64; var value: Record.Value }
    private struct State {
        var slots: [Revision: Slot] = [:]
        var generation: UInt64 = 1
    }
    private let state: Mutex<State>

    init() {
        var state = State()
        state.slots.reserveCapacity(1 << 12)
        self.state = Mutex(state)
    }

    func insert(_ records: [Record]) {
        state.withLock { state in
            for record in records {
                var value = record.value
                // A copy of what is here is that itself; else it is in the record lane, until a compaction removes it there.
                if case .copy(let source) = value, let slot = state.slots[source] { value = slot.value }
                state.slots[record.revision] = Slot(generation: state.generation, value: value)
            }
        }
    }

    /// Closes the generation and answers its number.
    func seal() -> UInt64 {
        state.withLock { state in
            defer { state.generation += 1 }
            return state.generation
        }
    }

    func remove(_ revisions: [Revision], through generation: UInt64) {
        state.withLock { state in
            for revision in revisions where state.slots[revision].map({ $0.generation <= generation }) == true {
                state.slots[revision] = nil
            }
        }
    }

    /// The store was replaced: what is here is of no use, or in the new one.
    func removeAll() { state.withLock { $0.slots.removeAll(keepingCapacity: true) } }

    subscript(revision: Revision) -> Record.Value? { state.withLock { $0.slots[revision]?.value } }
    /// One lock for all.
    func values(of revisions: [Revision]) -> [Record.Value?] {
        state.withLock { state in revisions.map { state.slots[$0]?.value } }
    }
    var count: Int { state.withLock { $0.slots.count } }
}
