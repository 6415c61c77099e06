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
    private struct Generation {
        /// As they were applied, each batch in order and after the one before: nothing is kept per record.
        private var batches: [[Record]] = []
        /// What takes the place of a record, here or in the record lane.
        private var replaced: [Revision: Record.Value] = [:]
        private(set) var count = 0

        var isEmpty: Bool { count == 0 }
        subscript(revision: Revision) -> Record.Value? {
            if !replaced.isEmpty, let value = replaced[revision] { return value }
            let batch = batches.lastIndex(fitting: { $0[0].revision <= revision })
            guard batch >= 0 else { return nil }
            let found = batches[batch].lastIndex(fitting: { $0.revision <= revision })
            return batches[batch][found].revision == revision ? batches[batch][found].value : nil
        }
        mutating func append(_ batch: [Record]) {
            batches.append(batch)
            count += batch.count
        }
        mutating func replace(_ revision: Revision, by value: Record.Value) {
            replaced[revision] = value
            count += 1
        }
        /// Whether all of them follow each other and whatever is here.
        func isContinued(by records: [Record]) -> Bool {
            guard var last = records.first?.revision, batches.last?.last.map({ $0.revision < last }) ?? true else { return false }
            for position in records.indices.dropFirst() {
                let next = records[position].version.revision // without a copy of the record
                guard last < next else { return false }
                last = next
            }
            return true
        }
    }
    private struct State {
        var filling = Generation()
        var sealed = Generation()
        subscript(revision: Revision) -> Record.Value? { filling[revision] ?? (sealed.isEmpty ? nil : sealed[revision]) }

        mutating func insert(_ records: [Record]) {
            let isContinuation = filling.isContinued(by: records)
            if isContinuation { filling.append(records) }
            for position in records.indices {
                // A copy of what is here is that itself; else it is in the record lane, until a compaction removes it there.
                if case .copy(let source) = records[position].value {
                    filling.replace(records[position].revision, by: self[source] ?? records[position].value)
                } else if !isContinuation {
                    filling.replace(records[position].revision, by: records[position].value)
                }
            }
        }
    }
    private let state = Mutex(State())

    func insert(_ records: [Record]) { state.withLock { $0.insert(records) } }

    /// What was inserted until now is being stored. One generation at a time.
    func seal() {
        state.withLock { state in
            precondition(state.sealed.isEmpty, "the generation before is durable and let go")
            swap(&state.sealed, &state.filling)
        }
    }

    /// The sealed generation is durable. Letting go of its values takes its time: not for the replica's thread.
    func releaseSealed() {
        var released = Generation()
        state.withLock { swap(&$0.sealed, &released) }
    }

    /// The store was replaced: what is here is of no use, or in the new one.
    func removeAll() { state.withLock { $0 = State() } }

    subscript(revision: Revision) -> Record.Value? { state.withLock { $0[revision] } }
    /// One lock for all.
    func values(of revisions: [Revision]) -> [Record.Value?] {
        state.withLock { state in revisions.map { state[$0] } }
    }
    var count: Int { state.withLock { $0.filling.count + $0.sealed.count } }
}

extension Array {
    /// Of the last element that fits, where those that fit come first; -1 if none does.
    fileprivate func lastIndex(fitting fits: (borrowing Element) -> Bool) -> Int {
        var low = 0, high = count
        while low < high {
            let middle = (low + high) / 2
            if fits(self[middle]) { low = middle + 1 } else { high = middle }
        }
        return low - 1
    }
}
