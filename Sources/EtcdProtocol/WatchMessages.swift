package import Basics
package import NIOCore

package struct WatchCreateRequestMessage: WireMessage {
    package var key: Bytes = []
    package var rangeEnd: Bytes = []
    package var startRevision: Int64 = 0
    package var progressNotify = false
    package var excludesPuts = false
    package var excludesDeletes = false
    package var prevKV = false
    /// 0 lets the server choose.
    package var watchID: Int64 = 0
    package var fragment = false
    package init() {}
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: key = try reader.copiedBytes()
        case 2: rangeEnd = try reader.copiedBytes()
        case 3: startRevision = try reader.int64()
        case 4: progressNotify = try reader.bool()
        case 5:
            var puts = excludesPuts, deletes = excludesDeletes
            try reader.repeatedVarints { filter in
                if filter == 0 { puts = true } else if filter == 1 { deletes = true }
            }
            excludesPuts = puts
            excludesDeletes = deletes
        case 6: prevKV = try reader.bool()
        case 7: watchID = try reader.int64()
        case 8: fragment = try reader.bool()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.bytes(1, key); sink.bytes(2, rangeEnd); sink.int64(3, startRevision); sink.bool(4, progressNotify)
        let filters: Bytes = (excludesPuts ? [0] : []) + (excludesDeletes ? [1] : [])
        sink.bytes(5, filters)
        sink.bool(6, prevKV); sink.int64(7, watchID); sink.bool(8, fragment)
    }
}

/// A message whose one field is a number: a watch or lease id.
package struct IdentifierMessage: WireMessage {
    package var id: Int64 = 0
    package init() {}
    package init(_ id: Int64) { self.id = id }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        guard field == 1 else { return false }
        id = try reader.int64()
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.int64(1, id) }
}

package struct WatchRequestMessage: WireMessage {
    package enum Request: Sendable {
        case create(WatchCreateRequestMessage)
        case cancel(watchID: Int64)
        case progress
    }
    package var request: Request?
    package init() {}
    package init(_ request: Request) { self.request = request }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: request = .create(try reader.message())
        case 2: request = .cancel(watchID: try reader.message(IdentifierMessage.self).id)
        case 3:
            _ = try reader.message(EmptyMessage.self)
            request = .progress
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        switch request {
        case .create(let message): sink.message(1, message)
        case .cancel(let id): sink.message(2, IdentifierMessage(id))
        case .progress: sink.message(3, EmptyMessage())
        case nil: break
        }
    }
}

/// mvccpb.Event.
package struct EventMessage: WireMessage {
    package enum Kind: Int, Sendable { case put, delete }
    package var kind = Kind.put
    package var kv: KeyValueMessage?
    package var prevKV: KeyValueMessage?
    package init() {}
    package init(kind: Kind, kv: KeyValueMessage?, prevKV: KeyValueMessage?) { self.kind = kind; self.kv = kv; self.prevKV = prevKV }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: kind = try reader.enumeration(Kind.self) ?? .put
        case 2: kv = try reader.message()
        case 3: prevKV = try reader.message()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.int64(1, Int64(kind.rawValue)); sink.optionalMessage(2, kv); sink.optionalMessage(3, prevKV)
    }
}

package struct WatchResponseMessage: WireMessage {
    package var header: ResponseHeader?
    package var watchID: Int64 = 0
    package var created = false
    package var canceled = false
    package var compactRevision: Int64 = 0
    package var cancelReason = ""
    /// More of the same revision follows.
    package var fragment = false
    package var events: [EventMessage] = []
    package init() {}
    package init(header: ResponseHeader?, watchID: Int64) { self.header = header; self.watchID = watchID }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: header = try reader.message()
        case 2: watchID = try reader.int64()
        case 3: created = try reader.bool()
        case 4: canceled = try reader.bool()
        case 5: compactRevision = try reader.int64()
        case 6: cancelReason = try reader.text()
        case 7: fragment = try reader.bool()
        case 11: events.append(try reader.message())
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.optionalMessage(1, header); sink.int64(2, watchID); sink.bool(3, created); sink.bool(4, canceled)
        sink.int64(5, compactRevision); sink.text(6, cancelReason); sink.bool(7, fragment); sink.messages(11, events)
    }
}
extension WatchResponseMessage {
    package func append(to buffer: inout ByteBuffer, opener: any ValueOpener) throws { try encode(into: &buffer, opener: opener) }
}
