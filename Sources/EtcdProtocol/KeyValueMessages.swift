package import Basics
package import NIOCore

// etcd's `KV` service. Field numbers are those of its rpc.proto and kv.proto.

package struct ResponseHeader: WireMessage, Hashable {
    package var clusterID: UInt64 = 0
    package var memberID: UInt64 = 0
    package var revision: Int64 = 0
    package var raftTerm: UInt64 = 0
    package init() {}
    package init(clusterID: UInt64, memberID: UInt64, revision: Int64, raftTerm: UInt64) {
        self.clusterID = clusterID; self.memberID = memberID; self.revision = revision; self.raftTerm = raftTerm
    }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: clusterID = try reader.uint64()
        case 2: memberID = try reader.uint64()
        case 3: revision = try reader.int64()
        case 4: raftTerm = try reader.uint64()
        default: return false
        }
        return true
    }
    @inline(__always) package func write<S: WireSink>(to sink: inout S) {
        sink.uint64(1, clusterID); sink.uint64(2, memberID); sink.int64(3, revision); sink.uint64(4, raftTerm)
    }
}

/// mvccpb.KeyValue.
package struct KeyValueMessage: WireMessage {
    package enum Value: Sendable {
        case none
        /// As a client sees it.
        case plain(ByteBuffer)
        /// As the server has it, and the stored key it is bound to: opened while the answer is written.
        case sealed(SealedValue, storedKey: Bytes)
    }
    package var key: Bytes = []
    package var createRevision: Int64 = 0
    package var modRevision: Int64 = 0
    package var version: Int64 = 0
    package var value = Value.none
    package var lease: Int64 = 0
    package init() {}
    package init(key: Bytes, createRevision: Int64, modRevision: Int64, version: Int64, value: Value, lease: Int64) {
        self.key = key; self.createRevision = createRevision; self.modRevision = modRevision
        self.version = version; self.value = value; self.lease = lease
    }
    /// The value as a client has it; empty when there is none.
    package var plainValue: ByteBuffer {
        if case .plain(let bytes) = value { bytes } else { ByteBuffer() }
    }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: key = try reader.copiedBytes()
        case 2: createRevision = try reader.int64()
        case 3: modRevision = try reader.int64()
        case 4: version = try reader.int64()
        case 5: value = .plain(try reader.slice())
        case 6: lease = try reader.int64()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.bytes(1, key)
        sink.int64(2, createRevision); sink.int64(3, modRevision); sink.int64(4, version)
        switch value {
        case .none: break
        case .plain(let bytes): sink.bytes(5, bytes)
        case .sealed(let sealed, let storedKey): sink.sealed(5, sealed, key: storedKey)
        }
        sink.int64(6, lease)
    }
}

package struct RangeRequestMessage: WireMessage {
    package enum SortOrder: Int, Sendable { case none, ascend, descend }
    package enum SortTarget: Int, Sendable { case key, version, create, mod, value }
    package var key: Bytes = []
    package var rangeEnd: Bytes = []
    package var limit: Int64 = 0
    package var revision: Int64 = 0
    /// `nil` is a number this protocol has no name for.
    package var sortOrder: SortOrder? = SortOrder.none
    package var sortTarget: SortTarget? = .key
    package var serializable = false
    package var keysOnly = false
    package var countOnly = false
    package var minModRevision: Int64 = 0
    package var maxModRevision: Int64 = 0
    package var minCreateRevision: Int64 = 0
    package var maxCreateRevision: Int64 = 0
    package init() {}
    package init(key: Bytes, rangeEnd: Bytes = []) { self.key = key; self.rangeEnd = rangeEnd }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: key = try reader.copiedBytes()
        case 2: rangeEnd = try reader.copiedBytes()
        case 3: limit = try reader.int64()
        case 4: revision = try reader.int64()
        case 5: sortOrder = try reader.enumeration(SortOrder.self)
        case 6: sortTarget = try reader.enumeration(SortTarget.self)
        case 7: serializable = try reader.bool()
        case 8: keysOnly = try reader.bool()
        case 9: countOnly = try reader.bool()
        case 10: minModRevision = try reader.int64()
        case 11: maxModRevision = try reader.int64()
        case 12: minCreateRevision = try reader.int64()
        case 13: maxCreateRevision = try reader.int64()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.bytes(1, key); sink.bytes(2, rangeEnd)
        sink.int64(3, limit); sink.int64(4, revision)
        sink.int64(5, Int64(sortOrder?.rawValue ?? 0)); sink.int64(6, Int64(sortTarget?.rawValue ?? 0))
        sink.bool(7, serializable); sink.bool(8, keysOnly); sink.bool(9, countOnly)
        sink.int64(10, minModRevision); sink.int64(11, maxModRevision)
        sink.int64(12, minCreateRevision); sink.int64(13, maxCreateRevision)
    }
}

package struct RangeResponseMessage: WireMessage {
    package var header: ResponseHeader?
    package var kvs: [KeyValueMessage] = []
    package var more = false
    package var count: Int64 = 0
    package init() {}
    package init(header: ResponseHeader?, kvs: [KeyValueMessage], more: Bool, count: Int64) {
        self.header = header; self.kvs = kvs; self.more = more; self.count = count
    }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: header = try reader.message()
        case 2: kvs.append(try reader.message())
        case 3: more = try reader.bool()
        case 4: count = try reader.int64()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.optionalMessage(1, header); sink.messages(2, kvs); sink.bool(3, more); sink.int64(4, count)
    }
}

package struct PutRequestMessage: WireMessage {
    package var key: Bytes = []
    /// Where it lies in the request: sealed from there.
    package var value = ByteBuffer()
    package var lease: Int64 = 0
    package var prevKV = false
    package var ignoreValue = false
    package var ignoreLease = false
    package init() {}
    package init(key: Bytes, value: ByteBuffer, lease: Int64 = 0) { self.key = key; self.value = value; self.lease = lease }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: key = try reader.copiedBytes()
        case 2: value = try reader.slice()
        case 3: lease = try reader.int64()
        case 4: prevKV = try reader.bool()
        case 5: ignoreValue = try reader.bool()
        case 6: ignoreLease = try reader.bool()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.bytes(1, key); sink.bytes(2, value); sink.int64(3, lease)
        sink.bool(4, prevKV); sink.bool(5, ignoreValue); sink.bool(6, ignoreLease)
    }
}

package struct PutResponseMessage: WireMessage {
    package var header: ResponseHeader?
    package var prevKV: KeyValueMessage?
    package init() {}
    package init(header: ResponseHeader?, prevKV: KeyValueMessage?) { self.header = header; self.prevKV = prevKV }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: header = try reader.message()
        case 2: prevKV = try reader.message()
        default: return false
        }
        return true
    }
    @inline(__always) package func write<S: WireSink>(to sink: inout S) {
        sink.optionalMessage(1, header); sink.optionalMessage(2, prevKV)
    }
}

package struct DeleteRangeRequestMessage: WireMessage {
    package var key: Bytes = []
    package var rangeEnd: Bytes = []
    package var prevKV = false
    package init() {}
    package init(key: Bytes, rangeEnd: Bytes = [], prevKV: Bool = false) { self.key = key; self.rangeEnd = rangeEnd; self.prevKV = prevKV }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: key = try reader.copiedBytes()
        case 2: rangeEnd = try reader.copiedBytes()
        case 3: prevKV = try reader.bool()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.bytes(1, key); sink.bytes(2, rangeEnd); sink.bool(3, prevKV) }
}

package struct DeleteRangeResponseMessage: WireMessage {
    package var header: ResponseHeader?
    package var deleted: Int64 = 0
    package var prevKVs: [KeyValueMessage] = []
    package init() {}
    package init(header: ResponseHeader?, deleted: Int64, prevKVs: [KeyValueMessage]) {
        self.header = header; self.deleted = deleted; self.prevKVs = prevKVs
    }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: header = try reader.message()
        case 2: deleted = try reader.int64()
        case 3: prevKVs.append(try reader.message())
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.optionalMessage(1, header); sink.int64(2, deleted); sink.messages(3, prevKVs) }
}

package struct CompactionRequestMessage: WireMessage {
    package var revision: Int64 = 0
    package var physical = false
    package init() {}
    package init(revision: Int64, physical: Bool = false) { self.revision = revision; self.physical = physical }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: revision = try reader.int64()
        case 2: physical = try reader.bool()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.int64(1, revision); sink.bool(2, physical) }
}

/// An answer of a header and nothing else: Compact, LeaseRevoke, Defragment.
package struct HeaderOnlyMessage: WireMessage {
    package var header: ResponseHeader?
    package init() {}
    package init(header: ResponseHeader?) { self.header = header }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        guard field == 1 else { return false }
        header = try reader.message()
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.optionalMessage(1, header) }
}

/// A request without fields: Status, LeaseLeases, Defragment.
package struct EmptyMessage: WireMessage {
    package init() {}
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool { false }
    package func write<S: WireSink>(to sink: inout S) {}
}

// The hot messages once more, concrete: called from other targets, the generic forms above are not specialised.
extension PutRequestMessage {
    package static func decoded(_ buffer: ByteBuffer) throws(WireError) -> PutRequestMessage { try PutRequestMessage(decoding: buffer) }
}
extension RangeRequestMessage {
    package static func decoded(_ buffer: ByteBuffer) throws(WireError) -> RangeRequestMessage { try RangeRequestMessage(decoding: buffer) }
}
extension PutResponseMessage {
    package func append(to buffer: inout ByteBuffer, opener: any ValueOpener) throws { try encode(into: &buffer, opener: opener) }
}
extension RangeResponseMessage {
    package func append(to buffer: inout ByteBuffer, opener: any ValueOpener) throws { try encode(into: &buffer, opener: opener) }
}
