package import Basics

package struct LeaseGrantRequestMessage: WireMessage {
    package var seconds: Int64 = 0
    /// 0 lets the server choose.
    package var id: Int64 = 0
    package init() {}
    package init(seconds: Int64, id: Int64 = 0) { self.seconds = seconds; self.id = id }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: seconds = try reader.int64()
        case 2: id = try reader.int64()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.int64(1, seconds); sink.int64(2, id) }
}

/// LeaseGrantResponse and LeaseKeepAliveResponse, which are alike up to the unused error text.
package struct LeaseResponseMessage: WireMessage {
    package var header: ResponseHeader?
    package var id: Int64 = 0
    /// 0 in a keep-alive's answer: the lease is gone.
    package var seconds: Int64 = 0
    package init() {}
    package init(header: ResponseHeader?, id: Int64, seconds: Int64) { self.header = header; self.id = id; self.seconds = seconds }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: header = try reader.message()
        case 2: id = try reader.int64()
        case 3: seconds = try reader.int64()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.optionalMessage(1, header); sink.int64(2, id); sink.int64(3, seconds) }
}

package struct LeaseTimeToLiveRequestMessage: WireMessage {
    package var id: Int64 = 0
    package var keys = false
    package init() {}
    package init(id: Int64, keys: Bool = false) { self.id = id; self.keys = keys }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: id = try reader.int64()
        case 2: keys = try reader.bool()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.int64(1, id); sink.bool(2, keys) }
}

package struct LeaseTimeToLiveResponseMessage: WireMessage {
    package var header: ResponseHeader?
    package var id: Int64 = 0
    /// -1: no such lease.
    package var seconds: Int64 = 0
    package var grantedSeconds: Int64 = 0
    package var keys: [Bytes] = []
    package init() {}
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: header = try reader.message()
        case 2: id = try reader.int64()
        case 3: seconds = try reader.int64()
        case 4: grantedSeconds = try reader.int64()
        case 5: keys.append(try reader.copiedBytes())
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.optionalMessage(1, header); sink.int64(2, id); sink.int64(3, seconds); sink.int64(4, grantedSeconds)
        for key in keys { sink.bytes(5, key) }
    }
}

package struct LeaseLeasesResponseMessage: WireMessage {
    package var header: ResponseHeader?
    package var leases: [IdentifierMessage] = []
    package init() {}
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: header = try reader.message()
        case 2: leases.append(try reader.message())
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.optionalMessage(1, header); sink.messages(2, leases) }
}
