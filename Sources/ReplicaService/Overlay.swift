import Basics
import MVCC
import Synchronization

/// Records that are applied and not yet durable in the record lane, for readers on any thread.
///
/// 1. Applied records are inserted before anyone is told of them.
/// 2. A checkpoint seals what was inserted before it: one generation is on its way to the record lane while the next one fills.
/// 3. When the checkpoint is durable its generation is let go as a whole. What replaced a record of it meanwhile (a reseal) is in the next one.
///
/// A reader looks here first and in the record lane after: whatever is missing here was durable there before.
final class Overlay: Sendable {
    private typealias Generation = [Revision: Record.Value]
    private struct State {
        var filling = Generation()
        var sealed = Generation()
        subscript(revision: Revision) -> Record.Value? { filling[revision] ?? (sealed.isEmpty ? nil : sealed[revision]) }
    }
    private let state: Mutex<State>

    init() {
        var state = State()
        state.filling.reserveCapacity(1 << 12)
        self.state = Mutex(state)
    }

    func insert(_ records: ArraySlice<Record>) {
        state.withLock { state in
            for position in records.indices {
                var value = records[position].value
                // A copy of what is here is that itself; else it is in the record lane, until a compaction removes it there.
                if case .copy(let source) = value, let found = state[source] { value = found }
                state.filling[records[position].revision] = value
            }
        }
    }

    /// What was inserted until now is being stored. One generation at a time.
    func seal() {
        state.withLock { state in
            precondition(state.sealed.isEmpty, "the generation before is durable and let go")
            state.sealed = state.filling
            state.filling = Generation(minimumCapacity: state.sealed.count)
        }
    }

    /// The sealed generation is durable. Letting go of its values takes its time: not for the replica's thread.
    func releaseSealed() {
        var released = Generation()
        state.withLock { swap(&$0.sealed, &released) }
    }

    /// The store was replaced: what is here is of no use, or in the new one.
    func removeAll() { state.withLock { ($0.filling, $0.sealed) = (Generation(), Generation()) } }

    subscript(revision: Revision) -> Record.Value? { state.withLock { $0[revision] } }
    /// One lock for all.
    func values(of revisions: [Revision]) -> [Record.Value?] {
        state.withLock { state in revisions.map { state[$0] } }
    }
    var count: Int { state.withLock { $0.filling.count + $0.sealed.count } }
}
