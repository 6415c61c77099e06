import Basics
import Raft
import Replica
import Testing

@testable import ReplicaService

@Suite("The mailbox")
struct MailboxTests {
    @Test("messages of other members wait up to a number of bytes, and up to a number; taking them makes room")
    func bounds() {
        let message = PeerMessage(from: MemberID(1), to: MemberID(2), .lost)
        var mailbox = Mailbox()
        let frame = Limits.peerMessageBytesMax
        for _ in 0..<100 { mailbox.receive([message], bytes: frame) }
        #expect(mailbox.mail.received.count == Limits.peerBytesWaitingMax / frame)
        #expect(mailbox.take().received.count == Limits.peerBytesWaitingMax / frame)
        mailbox.receive(Array(repeating: message, count: Limits.peerMessagesWaitingMax), bytes: 9)
        #expect(mailbox.mail.received.count == Limits.peerMessagesWaitingMax, "there is room again")
        mailbox.receive([message], bytes: 1)
        #expect(mailbox.mail.received.count == Limits.peerMessagesWaitingMax)
    }
}
