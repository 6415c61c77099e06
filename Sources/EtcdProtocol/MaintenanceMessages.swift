// Requests and answers of Cluster's changes, and of Maintenance beyond Status.

package struct MemberListRequestMessage: WireMessage {
    package var linearizable = false
    package init() {}
    package init(linearizable: Bool) { self.linearizable = linearizable }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        guard field == 1 else { return false }
        linearizable = try reader.bool()
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.bool(1, linearizable) }
}

package struct MemberAddRequestMessage: WireMessage {
    package var peerURLs: [String] = []
    package var isLearner = false
    package init() {}
    package init(peerURLs: [String], isLearner: Bool = false) { self.peerURLs = peerURLs; self.isLearner = isLearner }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: peerURLs.append(try reader.text())
        case 2: isLearner = try reader.bool()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        for url in peerURLs { sink.text(1, url) }
        sink.bool(2, isLearner)
    }
}

package struct MemberAddResponseMessage: WireMessage {
    package var header: ResponseHeader?
    package var member: MemberMessage?
    package var members: [MemberMessage] = []
    package init() {}
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: header = try reader.message()
        case 2: member = try reader.message()
        case 3: members.append(try reader.message())
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.optionalMessage(1, header); sink.optionalMessage(2, member); sink.messages(3, members)
    }
}

package struct MemberUpdateRequestMessage: WireMessage {
    package var id: UInt64 = 0
    package var peerURLs: [String] = []
    package init() {}
    package init(id: UInt64, peerURLs: [String]) { self.id = id; self.peerURLs = peerURLs }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: id = try reader.uint64()
        case 2: peerURLs.append(try reader.text())
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.uint64(1, id)
        for url in peerURLs { sink.text(2, url) }
    }
}

/// A request that names one member: MemberRemove, MemberPromote, MoveLeader.
package struct MemberIDRequestMessage: WireMessage {
    package var id: UInt64 = 0
    package init() {}
    package init(_ id: UInt64) { self.id = id }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        guard field == 1 else { return false }
        id = try reader.uint64()
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.uint64(1, id) }
}

package struct HashResponseMessage: WireMessage {
    package var header: ResponseHeader?
    package var hash: UInt32 = 0
    /// HashKV only.
    package var compactRevision: Int64 = 0
    package var hashRevision: Int64 = 0
    package init() {}
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: header = try reader.message()
        case 2: hash = try reader.uint32()
        case 3: compactRevision = try reader.int64()
        case 4: hashRevision = try reader.int64()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.optionalMessage(1, header); sink.uint64(2, UInt64(hash)); sink.int64(3, compactRevision); sink.int64(4, hashRevision)
    }
}

package struct HashRevisionRequestMessage: WireMessage {
    package var revision: Int64 = 0
    package init() {}
    package init(revision: Int64) { self.revision = revision }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        guard field == 1 else { return false }
        revision = try reader.int64()
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.int64(1, revision) }
}

package struct AlarmMemberMessage: WireMessage {
    package var memberID: UInt64 = 0
    /// 1 NOSPACE, 2 CORRUPT.
    package var alarm: UInt64 = 0
    package init() {}
    package init(memberID: UInt64, alarm: UInt64) { self.memberID = memberID; self.alarm = alarm }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: memberID = try reader.uint64()
        case 2: alarm = try reader.uint64()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.uint64(1, memberID); sink.uint64(2, alarm) }
}

package struct AlarmResponseMessage: WireMessage {
    package var header: ResponseHeader?
    package var alarms: [AlarmMemberMessage] = []
    package init() {}
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: header = try reader.message()
        case 2: alarms.append(try reader.message())
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.optionalMessage(1, header); sink.messages(2, alarms) }
}
