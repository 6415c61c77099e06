// Cluster and Maintenance.

package struct MemberMessage: WireMessage {
    package var id: UInt64 = 0
    package var name = ""
    package var peerURLs: [String] = []
    package var clientURLs: [String] = []
    package var isLearner = false
    package init() {}
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: id = try reader.uint64()
        case 2: name = try reader.text()
        case 3: peerURLs.append(try reader.text())
        case 4: clientURLs.append(try reader.text())
        case 5: isLearner = try reader.bool()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.uint64(1, id); sink.text(2, name)
        for url in peerURLs { sink.text(3, url) }
        for url in clientURLs { sink.text(4, url) }
        sink.bool(5, isLearner)
    }
}

package struct MemberListResponseMessage: WireMessage {
    package var header: ResponseHeader?
    package var members: [MemberMessage] = []
    package init() {}
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: header = try reader.message()
        case 2: members.append(try reader.message())
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) { sink.optionalMessage(1, header); sink.messages(2, members) }
}

package struct StatusResponseMessage: WireMessage {
    package var header: ResponseHeader?
    package var version = ""
    package var databaseBytes: Int64 = 0
    package var leader: UInt64 = 0
    package var raftIndex: UInt64 = 0
    package var raftTerm: UInt64 = 0
    package var raftAppliedIndex: UInt64 = 0
    package var errors: [String] = []
    package var databaseBytesInUse: Int64 = 0
    package var isLearner = false
    package init() {}
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: header = try reader.message()
        case 2: version = try reader.text()
        case 3: databaseBytes = try reader.int64()
        case 4: leader = try reader.uint64()
        case 5: raftIndex = try reader.uint64()
        case 6: raftTerm = try reader.uint64()
        case 7: raftAppliedIndex = try reader.uint64()
        case 8: errors.append(try reader.text())
        case 9: databaseBytesInUse = try reader.int64()
        case 10: isLearner = try reader.bool()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.optionalMessage(1, header); sink.text(2, version); sink.int64(3, databaseBytes); sink.uint64(4, leader)
        sink.uint64(5, raftIndex); sink.uint64(6, raftTerm); sink.uint64(7, raftAppliedIndex)
        for error in errors { sink.text(8, error) }
        sink.int64(9, databaseBytesInUse); sink.bool(10, isLearner)
    }
}

package struct AlarmRequestMessage: WireMessage {
    package enum Action: Int, Sendable { case get, activate, deactivate }
    package var action: Action? = .get
    package var memberID: UInt64 = 0
    package var alarm: UInt64 = 0
    package init() {}
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: action = try reader.enumeration(Action.self)
        case 2: memberID = try reader.uint64()
        case 3: alarm = try reader.uint64()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.int64(1, Int64(action?.rawValue ?? 0)); sink.uint64(2, memberID); sink.uint64(3, alarm)
    }
}
