package import Audit
import Basics

/// The audit file as the etcd port writes it: one record for all operations of one kind that one peer sent in one burst, naming
/// every key. A burst is what one turn of the event loop read, so under load a record covers some dozen requests.
package struct FileTrail: AuditTrail {
    private let log: AuditLog
    private let now: @Sendable () -> UInt64
    /// `now`: milliseconds since 1970.
    package init(log: AuditLog, now: @escaping @Sendable () -> UInt64) { self.log = log; self.now = now }

    package func record(_ operations: [AuditedOperation]) throws {
        let time = now()
        var done = [Bool](repeating: false, count: operations.count)
        for first in operations.indices where !done[first] {
            let kind = operations[first]
            var names: [UInt8] = [], count = 0
            for index in first..<operations.count where !done[index] && operations[index].verb == kind.verb && operations[index].peer == kind.peer {
                done[index] = true
                count += operations[index].count
                if !names.isEmpty { names.append(UInt8(ascii: " ")) }
                Self.append(operations[index].key, to: &names)
                guard !operations[index].rangeEnd.isEmpty else { continue }
                names.append(contentsOf: [UInt8(ascii: "."), UInt8(ascii: ".")])
                Self.append(operations[index].rangeEnd, to: &names)
            }
            try log.append(AuditRecord(
                timeMilliseconds: time, surface: "etcd", who: kind.peer, verb: kind.verb.rawValue, resource: String(decoding: names, as: UTF8.self),
                decision: .allowed(because: "auth is not enabled"), outcome: "accepted", count: count))
        }
    }

    private static let hexDigits = Array("0123456789abcdef".utf8)
    /// Printable ASCII stays; the separators `%` and space, and everything else, are escaped as `%xx`.
    private static func append(_ name: Bytes, to text: inout [UInt8]) {
        for byte in name {
            if byte > 0x20, byte < 0x7f, byte != UInt8(ascii: "%") {
                text.append(byte)
            } else {
                text.append(contentsOf: [UInt8(ascii: "%"), hexDigits[Int(byte >> 4)], hexDigits[Int(byte & 15)]])
            }
        }
    }
}
