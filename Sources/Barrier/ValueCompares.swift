import Basics
package import MVCC
package import ReplicaService
import SecretMemory

// Compares by VALUE. The Replica opens nothing, so they are answered here, above it:
//
// (1) the compared keys are read (permission to read them was checked above);
// (2) their values are opened and compared;
// (3) the transaction is proposed with the answers, and a guard per compare: how many keys the range has, and their
//     greatest modification revision;
// (4) apply refuses it when a guard no longer holds: then again from (1).

extension Barrier {
    /// A transaction with compares by value, with etcd's meaning: an empty range never satisfies a compare by value,
    /// else every key in it must.
    package func transaction(_ transaction: EtcdTransaction) async throws(EtcdFailure) -> AnswerBody {
        for _ in 0..<Self.attemptsMax {
            var compared: [KeyRange: [KeyVersion]] = [:], guards: [Guard] = [], pins: [ReadPin] = []
            defer { pins.forEach { $0.release() } }
            for range in transaction.comparedRanges where compared[range] == nil { // (1)
                let (body, pin) = try await holding(.range(RangeRequest(range), linearizable: true))
                pins.append(pin)
                guard case .range(let result, _) = body else { throw .unavailable("no range") }
                compared[range] = result.versions
                guards.append(Guard(range, count: result.count, modificationRevisionMax: result.versions.map(\.revision.main).max() ?? 0))
            }
            let seen = compared
            let lowered = try transaction.lowered { (range, relation, value) throws(EtcdFailure) in // (2)
                Compare(range, relation, .resolved(try holds(relation, of: seen[range] ?? [], to: value)))
            }
            do { // (3)
                if !transaction.writes { return try await ask(.read(lowered, guards: guards, linearizable: true)) }
                let (result, revision) = try await write(.transaction(lowered, guards: guards))
                return .command(result, revision: revision)
            } catch {
                guard case .refused(.guardFailed) = error else { throw error } // (4)
            }
        }
        throw .overloaded
    }

    private func holds(_ relation: Compare.Relation, of versions: [KeyVersion], to value: SecretValue) throws(EtcdFailure) -> Bool {
        for version in versions {
            let stored: SecretValue
            do { stored = try plaintext(of: version) } catch { throw .unreadable(error) }
            let order = stored.order(to: value)
            let satisfied = switch relation {
            case .equal: order == 0
            case .notEqual: order != 0
            case .greater: order > 0
            case .less: order < 0
            }
            if !satisfied { return false }
        }
        return !versions.isEmpty
    }

    /// Versions in the order of their values; ties keep their order.
    package func sortedByValue(_ versions: [KeyVersion], descending: Bool) throws(UnreadableValue) -> [KeyVersion] {
        var opened: [(SecretValue, Int)] = []
        for (place, version) in versions.enumerated() { opened.append((try plaintext(of: version), place)) }
        opened.sort { a, b in
            let order = a.0.order(to: b.0)
            return order == 0 ? a.1 < b.1 : descending ? order > 0 : order < 0
        }
        return opened.map { versions[$0.1] }
    }
}

extension EtcdTransaction {
    /// Every range compared by value, nested ones too, in order.
    var comparedRanges: [KeyRange] {
        let own = compares.compactMap { if case .value(let range, _, _) = $0 { range } else { nil } }
        return own + (success + failure).flatMap { if case .transaction(let nested) = $0 { nested.comparedRanges } else { [KeyRange]() } }
    }
}

extension SecretValue {
    /// Negative, zero or positive, as the bytes stand in order. Not in constant time: etcd's clients may ask for it.
    fileprivate func order(to other: SecretValue) -> Int {
        unsafe withUnsafeBytes { a in
            unsafe other.withUnsafeBytes { b in
                for i in 0..<min(a.count, b.count) where unsafe a[i] != b[i] { return unsafe Int(a[i]) - Int(b[i]) }
                return a.count - b.count
            }
        }
    }
}
