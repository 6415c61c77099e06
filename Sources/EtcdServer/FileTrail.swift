package import Audit
import Basics

/// The audit file as the etcd port writes it: one record for all operations of one kind that one peer sent in one burst, naming
/// every key. A burst is what one turn of the event loop read, so under load a record covers some dozen requests. What came to nothing
/// (refused, or a transaction whose compares failed) has a second record that says so; watches have one per batch told, besides their own.
package struct FileTrail: AuditTrail {
    private let log: AuditLog
    private let now: @Sendable () -> UInt64
    /// `now`: milliseconds since 1970.
    package init(log: AuditLog, now: @escaping @Sendable () -> UInt64) { self.log = log; self.now = now }

    package var durable: AuditTicket { log.durable }
    package func whenDurable(_ ticket: AuditTicket, _ call: @escaping @Sendable ((any Error)?) -> Void) { log.whenDurable(ticket) { call($0) } }

    package func record(_ operations: [AuditedOperation]) throws -> AuditTicket {
        let time = now()
        var awaited = AuditTicket.none
        var done = [Bool](repeating: false, count: operations.count)
        for first in operations.indices where !done[first] {
            let kind = operations[first]
            var names: [UInt8] = [], count = 0
            for index in first..<operations.count where !done[index] && Self.share(operations[index], kind) {
                done[index] = true
                count += operations[index].count  // each is bounded by its request's size
                Self.append(operations[index], to: &names)
            }
            let ticket = try log.append(AuditRecord(
                timeMilliseconds: time, surface: "etcd", who: kind.peer, verb: kind.verb.rawValue, resource: String(decoding: names, as: UTF8.self),
                decision: .allowed(because: "auth is not enabled"), outcome: kind.outcome, count: count), isAwaited: kind.verb.isChange)
            if kind.verb.isChange { awaited = max(awaited, ticket) }
        }
        return awaited
    }

    /// Whether two operations stand in one record.
    private static func share(_ one: AuditedOperation, _ other: AuditedOperation) -> Bool {
        one.verb == other.verb && one.peer == other.peer && one.outcome == other.outcome
    }

    private static func append(_ operation: AuditedOperation, to names: inout [UInt8]) {
        if !operation.key.isEmpty || !operation.rangeEnd.isEmpty {
            if !names.isEmpty { names.append(UInt8(ascii: " ")) }
            append(operation.key, to: &names)
            if !operation.rangeEnd.isEmpty { append(end: operation.rangeEnd, to: &names) }
        }
        for access in operation.accesses {
            let (label, range): (String, KeyRange)
            switch access {
            case .read(let keys): (label, range) = ("read:", keys)
            case .write(let keys): (label, range) = ("write:", keys)
            case .administer, .lease: continue
            }
            if !names.isEmpty { names.append(UInt8(ascii: " ")) }
            names.append(contentsOf: label.utf8)
            append(range.key, to: &names)
            if let end = range.end { append(end: end, to: &names) }
        }
    }
    private static func append(end: Bytes, to names: inout [UInt8]) {
        names.append(contentsOf: [UInt8(ascii: "."), UInt8(ascii: ".")])
        append(end, to: &names)
    }

    private static let hexDigits = Array("0123456789abcdef".utf8)
    /// Printable ASCII stays; the separators `%` and space, and everything else, are escaped as `%xx`.
    private static func append(_ name: Bytes, to text: inout [UInt8]) {
        func isPlain(_ byte: UInt8) -> Bool { byte > 0x20 && byte < 0x7f && byte != UInt8(ascii: "%") }
        if name.allSatisfy(isPlain) { return text.append(contentsOf: name) }
        for byte in name {
            if isPlain(byte) {
                text.append(byte)
            } else {
                text.append(contentsOf: [UInt8(ascii: "%"), hexDigits[Int(byte >> 4)], hexDigits[Int(byte & 15)]])
            }
        }
    }
}
