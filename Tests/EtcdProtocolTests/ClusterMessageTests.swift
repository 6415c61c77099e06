import Basics
import NIOCore
import Testing

@testable import EtcdProtocol

/// Cluster and Maintenance, against bytes written down from etcd's own field numbers.
@Suite struct ClusterMessageTests {
    func encoded<M: WireMessage>(_ message: M) throws -> Bytes {
        var buffer = ByteBuffer()
        try message.encode(into: &buffer)
        return Bytes(buffer.readableBytesView)
    }

    @Test("requests are read as etcd's clients write them")
    func requests() throws {
        let add = try MemberAddRequestMessage(decoding: ByteBuffer(bytes: [0x0a, 3] + Bytes("url".utf8) + [0x0a, 1, 0x61, 0x10, 1]))
        #expect(add.peerURLs == ["url", "a"] && add.isLearner)
        let update = try MemberUpdateRequestMessage(decoding: ByteBuffer(bytes: [0x08, 0xac, 0x02, 0x12, 1, 0x62]))
        #expect(update.id == 300 && update.peerURLs == ["b"])
        #expect(try MemberIDRequestMessage(decoding: ByteBuffer(bytes: [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01])).id == .max)
        #expect(try MemberListRequestMessage(decoding: ByteBuffer(bytes: [0x08, 1])).linearizable)
        #expect(try !MemberListRequestMessage(decoding: ByteBuffer()).linearizable)
        #expect(try HashRevisionRequestMessage(decoding: ByteBuffer(bytes: [0x08, 7])).revision == 7)
    }

    @Test("answers are written as etcd's clients read them, and come back as they were")
    func answers() throws {
        var hash = HashResponseMessage()
        hash.hash = 0x8000_0001
        hash.compactRevision = 2
        hash.hashRevision = 9
        #expect(try encoded(hash) == [0x10, 0x81, 0x80, 0x80, 0x80, 0x08, 0x18, 2, 0x20, 9])
        #expect(try HashResponseMessage(decoding: ByteBuffer(bytes: encoded(hash))).hash == hash.hash)
        var alarms = AlarmResponseMessage()
        alarms.alarms = [AlarmMemberMessage(memberID: 5, alarm: 2)]
        #expect(try encoded(alarms) == [0x12, 4, 0x08, 5, 0x10, 2])
        var member = MemberMessage()
        member.id = 1
        member.isLearner = true
        var added = MemberAddResponseMessage()
        added.member = member
        added.members = [member]
        #expect(try encoded(added) == [0x12, 4, 0x08, 1, 0x28, 1, 0x1a, 4, 0x08, 1, 0x28, 1])
        let read = try MemberAddResponseMessage(decoding: ByteBuffer(bytes: encoded(added)))
        #expect(read.member?.isLearner == true && read.members.count == 1)
    }

    @Test("random bytes are read or refused, never more")
    func fuzz() {
        var generator = SeededGenerator(seed: 4)
        for _ in 0..<20_000 {
            let bytes = ByteBuffer(bytes: (0..<Int.random(in: 0..<40, using: &generator)).map { _ in UInt8.random(in: 0...255, using: &generator) })
            _ = try? MemberAddRequestMessage(decoding: bytes)
            _ = try? MemberUpdateRequestMessage(decoding: bytes)
            _ = try? MemberIDRequestMessage(decoding: bytes)
            _ = try? MemberAddResponseMessage(decoding: bytes)
            _ = try? AlarmResponseMessage(decoding: bytes)
            _ = try? HashResponseMessage(decoding: bytes)
        }
    }
}
