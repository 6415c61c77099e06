import Basics
import MVCC
import Raft
import Replica
import Testing

/// One replica, a slow disk, a slower record lane, and crashes whenever they hurt; against a model that is a dictionary.
@Suite("The replica under random crashes")
struct SimulationTests {
    private enum Change: Equatable { case put(String), delete }

    @Test("an acknowledged write is never lost, an unacknowledged one happens whole or not at all", arguments: 0..<40)
    func crashes(seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        var host = try Host()
        host.lead()
        host.carryOut(Fixture.createDomain())
        /// All that was proposed, in order, and what became of it.
        var proposed: [(ticket: Ticket, key: String, change: Change)] = []
        var acknowledged = 0, crashes = 0
        /// What certainly happened, as of the last crash or acknowledgement.
        var model: [String: String] = [:]

        func settle(_ host: borrowing Host) {
            while acknowledged < proposed.count, let outcome = host.outcomes[proposed[acknowledged].ticket] {
                guard case .applied = outcome else { Issue.record("\(outcome)"); return }
                apply(proposed[acknowledged].key, proposed[acknowledged].change, to: &model)
                acknowledged += 1
            }
        }
        func apply(_ key: String, _ change: Change, to model: inout [String: String]) {
            switch change {
            case .put(let text): model[key] = text
            case .delete: model[key] = nil
            }
        }

        for step in 0..<600 {
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<45:
                let key = "k\(Int.random(in: 0..<12, using: &random))"
                let change: Change = Int.random(in: 0..<4, using: &random) == 0 ? .delete : .put("v\(step)")
                let ticket = switch change {
                case .put(let text): host.propose(Fixture.put(key, text))
                case .delete: host.propose(Fixture.delete(key))
                }
                proposed.append((ticket, key, change))
            case 45..<75: host.finishLogWrite()
            case 75..<83: host.handle(.storeDue)
            case 83..<91: host.finishCheckpoint()
            case 91..<94:
                let at = host.replica.store.revision - Int64.random(in: 0..<5, using: &random)
                if at > host.replica.store.compactRevision, at > 0 { host.carryOut(.compact(revision: at)) }
            default:
                settle(host)
                crashes += 1
                // A write under way may become durable all the same, though its word does not arrive.
                let landed = Int.random(in: 0...host.logWrites.count, using: &random)
                for write in host.logWrites.prefix(landed) { host.log.perform(write) }
                if let checkpoint = host.checkpoints.first, Bool.random(using: &random) { host.records.perform(checkpoint) }
                let uncertain = proposed[acknowledged...].map { ($0.key, $0.change) }
                host = try host.crashed()
                host.lead()
                // The state is the model after some prefix of what was under way.
                var candidate = model, matched = equals(host, candidate)
                for (key, change) in uncertain where !matched {
                    apply(key, change, to: &candidate)
                    matched = equals(host, candidate)
                }
                #expect(matched, "after crash \(crashes) the store is no state that could have been")
                model = candidate
                proposed = []
                acknowledged = 0
            }
            settle(host)
        }
        host.finishLogWrites()
        settle(host)
        #expect(acknowledged == proposed.count && equals(host, model) && crashes > 5)
    }

    /// Keys, and the values that readers find, overlaid or stored.
    private func equals(_ host: borrowing Host, _ model: [String: String]) -> Bool {
        for number in 0..<12 {
            let key = "k\(number)", version = host.get(key)
            guard let version else { if model[key] == nil { continue } else { return false } }
            let stored = host.records.records[version.revision]?.value
            let value = if case .sealed(let value)? = host.written[version.revision] { Optional(value) } else { stored }
            guard let text = model[key], value == Fixture.sealed(text) else { return false }
        }
        return true
    }
}
