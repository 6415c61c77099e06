package import Basics
package import MVCC
package import Raft

/// What members say to each other.
package struct PeerMessage: Hashable, Sendable {
    package enum Body: Hashable, Sendable {
        /// Names the same two members.
        case raft(Message)
        /// To the leader: commands whose proposers wait at the sender, as they are to be logged, in the order of their sequences.
        case forward([ForwardedCommand])
        /// To the leader: what it alone can answer.
        case questions([ForwardedQuestion])
        /// From the leader: answers to questions, and commands that it refused. What was applied is not told: the origin applies it too.
        case outcomes([ForwardedOutcome])
        /// From the leader: the hash over everything applied up to an entry.
        case hash(index: LogIndex, StateHash)
        /// The receiver's own at the same entry, for the leader to compare.
        case hashed(index: LogIndex, StateHash)
        /// To whoever leads: the sender lost some of what it had acknowledged. Until it is readmitted it takes no part.
        case lost
        /// From the leader: the sender of `.lost` is no voter (any more), as of this entry, and may replicate again.
        case readmitted(through: LogIndex)
        /// The sender begins this run, and asks what is known of it (`Recognition`).
        case recall(run: UInt64)
        /// The answer: the last run of the asking member that took part, and the last that it voted or acknowledged in it.
        case recalled(Recollection)
        /// The sender takes part in this run, and holds that much of its term (`Raft.held`): to be remembered, and to be answered by `noted`.
        case takesPart(run: UInt64, term: Term, index: LogIndex)
        case noted(run: UInt64)
    }
    package var from: MemberID
    package var to: MemberID
    package var body: Body
    package init(from: MemberID, to: MemberID, _ body: Body) { self.from = from; self.to = to; self.body = body }
    package init(_ message: Message) { self.init(from: message.from, to: message.to, .raft(message)) }
}

/// What a member remembers of the one that asks, and who votes as of the last entry it has applied.
package struct Recollection: Hashable, Sendable {
    /// The run that asked.
    package var asked: UInt64
    package var run: UInt64
    package var term: Term
    package var index: LogIndex
    package var membership: Membership
    package var asOf: LogIndex
    package init(asked: UInt64, run: UInt64, term: Term, index: LogIndex, membership: Membership, asOf: LogIndex) {
        self.asked = asked; self.run = run; self.term = term; self.index = index
        self.membership = membership; self.asOf = asOf
    }
}

package struct ForwardedCommand: Hashable, Sendable {
    package var sequence: UInt64
    /// Origin and command (`Origin.encode`).
    package var payload: Bytes
    package init(sequence: UInt64, payload: Bytes) { self.sequence = sequence; self.payload = payload }
}

/// Which command or question of a member is meant. Each run of it counts anew: an answer that comes late must not be taken for one to another.
package struct ForwardedID: Hashable, Sendable {
    package var incarnation: UInt64
    package var sequence: UInt64
    package init(_ incarnation: UInt64, _ sequence: UInt64) { self.incarnation = incarnation; self.sequence = sequence }
    init(_ origin: Origin) { self.init(origin.incarnation, origin.sequence) }
}

package struct ForwardedQuestion: Hashable, Sendable {
    package enum Kind: Hashable, Sendable {
        case leaseKeepAlive(LeaseID)
        case leaseStatus(LeaseID, withKeys: Bool)
    }
    package var id: ForwardedID
    package var kind: Kind
    package init(_ id: ForwardedID, _ kind: Kind) { self.id = id; self.kind = kind }
}

package struct ForwardedOutcome: Hashable, Sendable {
    package enum Kind: Hashable, Sendable {
        /// Not taken: whom to ask instead, if it is known. It may be sent again.
        case notLeader(MemberID?)
        case noSpace, overloaded
        /// The command does not decode, or is larger than one may be.
        case malformed
        case refused(MemberRefusal.Told)
        case leaseNotFound
        case leaseKeptAlive(LeaseID, seconds: Int64, revision: Int64)
        case leaseStatus(LeaseID, grantedSeconds: Int64, remainingSeconds: Int64, keys: [Bytes], revision: Int64)
    }
    package var id: ForwardedID
    package var kind: Kind
    package init(_ id: ForwardedID, _ kind: Kind) { self.id = id; self.kind = kind }
}

extension MemberRefusal {
    /// What a leader refuses before anything is logged.
    package enum Told: Hashable, Sendable {
        case notInSync(MemberID), losesQuorum, underWay, tooManyLearners, notFounded
        package var refusal: MemberRefusal {
            switch self {
            case .notInSync(let member): .notInSync(member)
            case .losesQuorum: .losesQuorum
            case .tooManyLearners: .tooManyLearners
            case .notFounded: .notNow("there are no members yet: a store that is alone has none")
            case .underWay: .notNow("another change of members is under way")
            }
        }
    }
}

// MARK: - Codec

/// One message, as it travels:
///
///     format u8 = 2 | kind u8 | from u64 | to u64 | fields
///     raft: term u64 | kind u8 | fields;   entries: count u32, then for each: term u64 | kind u8 | payload, indices following `previous`
///
/// The reader never traps and never builds more than the bytes at hand can hold; longer ones than `bytesMax` it does not read at all.
extension PeerMessage {
    package static let bytesMax = Limits.peerMessageBytesMax
    private static let format: UInt8 = 2

    package func encode() -> Bytes {
        var writer = ByteWriter(capacity: body.payloadBytes + 96)
        writer.write(Self.format)
        writer.write(body.number)
        writer.write(from.rawValue)
        writer.write(to.rawValue)
        switch body {
        case .raft(let message): writer.write(message)
        case .forward(let commands):
            writer.write(UInt32(commands.count))
            for command in commands {
                writer.write(command.sequence)
                writer.write(prefixed: command.payload)
            }
        case .questions(let questions):
            writer.write(UInt32(questions.count))
            for question in questions { writer.write(question) }
        case .outcomes(let outcomes):
            writer.write(UInt32(outcomes.count))
            for outcome in outcomes { writer.write(outcome) }
        case .hash(let index, let hash), .hashed(let index, let hash):
            writer.write(index)
            writer.write(hash.value)
        case .lost: break
        case .readmitted(let through): writer.write(through)
        case .recall(let run), .noted(let run): writer.write(run)
        case .takesPart(let run, let term, let index):
            writer.write(run)
            writer.write(term)
            writer.write(index)
        case .recalled(let told):
            writer.write(told.asked)
            writer.write(told.run)
            writer.write(told.term)
            writer.write(told.index)
            writer.write(told.asOf)
            writer.write(prefixed: told.membership.encode())
        }
        return writer.bytes
    }

    package init(decoding bytes: Bytes) throws(MalformedBytes) { try self.init(decoding: bytes[...]) }
    package init(decoding bytes: ArraySlice<UInt8>) throws(MalformedBytes) {
        guard bytes.count <= Self.bytesMax else { throw MalformedBytes("a message of \(bytes.count) bytes", at: 0) }
        var reader = ByteReader(bytes)
        let format: UInt8 = try reader.read()
        guard format == Self.format else { throw MalformedBytes("message of format \(format)", at: 0) }
        let kind: UInt8 = try reader.read()
        from = MemberID(try reader.read())
        to = MemberID(try reader.read())
        switch kind {
        case 0: body = .raft(try reader.readMessage(from: from, to: to))
        case 1: body = .forward(try reader.readList(elementBytesMin: 12) { reader throws(MalformedBytes) in
            ForwardedCommand(sequence: try reader.read(), payload: try reader.readPrefixed())
        })
        case 2: body = .questions(try reader.readList(elementBytesMin: 25) { reader throws(MalformedBytes) in try reader.readQuestion() })
        case 3: body = .outcomes(try reader.readList(elementBytesMin: 17) { reader throws(MalformedBytes) in try reader.readOutcome() })
        case 4: body = .hash(index: try reader.read(), StateHash(try reader.read()))
        case 5: body = .hashed(index: try reader.read(), StateHash(try reader.read()))
        case 6: body = .lost
        case 7: body = .readmitted(through: try reader.read())
        case 8: body = .recall(run: try reader.read())
        case 9:
            let asked: UInt64 = try reader.read(), run: UInt64 = try reader.read(), term: Term = try reader.read(), index: LogIndex = try reader.read()
            let asOf: LogIndex = try reader.read(), membership = try Membership(decoding: Bytes(try reader.readPrefixed()))
            body = .recalled(Recollection(asked: asked, run: run, term: term, index: index, membership: membership, asOf: asOf))
        case 10: body = .takesPart(run: try reader.read(), term: try reader.read(), index: try reader.read())
        case 11: body = .noted(run: try reader.read())
        case let other: throw MalformedBytes("\(other) is no message", at: 1)
        }
        try reader.expectEnd()
    }
}

extension PeerMessage.Body {
    /// Of what may be long in it, with its heads.
    fileprivate var payloadBytes: Int {
        switch self {
        case .raft(let message):
            guard case .append(_, let entries, _) = message.body else { return 0 }
            return entries.reduce(0) { $0 + 13 + $1.payload.count }
        case .forward(let commands): return commands.reduce(0) { $0 + 12 + $1.payload.count }
        default: return 0
        }
    }
    fileprivate var number: UInt8 {
        switch self {
        case .raft: 0
        case .forward: 1
        case .questions: 2
        case .outcomes: 3
        case .hash: 4
        case .hashed: 5
        case .lost: 6
        case .readmitted: 7
        case .recall: 8
        case .recalled: 9
        case .takesPart: 10
        case .noted: 11
        }
    }
}

extension ByteWriter {
    fileprivate mutating func write(_ position: EntryPosition) {
        write(position.index)
        write(position.term)
    }

    fileprivate mutating func write(_ message: Message) {
        write(message.term)
        switch message.body {
        case .preVoteRequest(let last): write(0 as UInt8); write(last)
        case .preVoteResponse(let granted): write(1 as UInt8); write(bool: granted)
        case .voteRequest(let last, let isTransfer): write(2 as UInt8); write(last); write(bool: isTransfer)
        case .voteResponse(let granted): write(3 as UInt8); write(bool: granted)
        case .append(let previous, let entries, let commit):
            write(4 as UInt8)
            write(previous)
            write(commit)
            write(UInt32(entries.count))
            for entry in entries {
                write(entry.term)
                write(entry.kind.rawValue)
                write(prefixed: entry.payload)
            }
        case .appended(let through): write(5 as UInt8); write(through)
        case .appendRejected(let previous, let hint): write(6 as UInt8); write(previous); write(hint)
        case .heartbeat(let commit, let readSequence): write(7 as UInt8); write(commit); write(readSequence)
        case .heartbeatResponse(let readSequence): write(8 as UInt8); write(readSequence)
        case .outdated: write(9 as UInt8)
        case .timeoutNow: write(10 as UInt8)
        case .readRequest(let request): write(11 as UInt8); write(request)
        case .readResponse(let request, let index): write(12 as UInt8); write(request); write(index)
        case .committed(let position): write(13 as UInt8); write(position)
        }
    }

    private mutating func write(_ id: ForwardedID) {
        write(id.incarnation)
        write(id.sequence)
    }
    fileprivate mutating func write(_ question: ForwardedQuestion) {
        write(question.id)
        switch question.kind {
        case .leaseKeepAlive(let id): write(0 as UInt8); write(id)
        case .leaseStatus(let id, let withKeys): write(1 as UInt8); write(id); write(bool: withKeys)
        }
    }

    fileprivate mutating func write(_ outcome: ForwardedOutcome) {
        write(outcome.id)
        switch outcome.kind {
        case .notLeader(let leader): write(0 as UInt8); write(leader?.rawValue ?? 0)
        case .noSpace: write(1 as UInt8)
        case .overloaded: write(2 as UInt8)
        case .malformed: write(3 as UInt8)
        case .refused(.notInSync(let member)): write(4 as UInt8); write(member.rawValue)
        case .refused(.losesQuorum): write(5 as UInt8)
        case .refused(.underWay): write(6 as UInt8)
        case .refused(.tooManyLearners): write(10 as UInt8)
        case .refused(.notFounded): write(11 as UInt8)
        case .leaseNotFound: write(7 as UInt8)
        case .leaseKeptAlive(let id, let seconds, let revision):
            write(8 as UInt8)
            write(id)
            write(seconds)
            write(revision)
        case .leaseStatus(let id, let granted, let remaining, let keys, let revision):
            write(9 as UInt8)
            write(id)
            write(granted)
            write(remaining)
            write(revision)
            write(UInt32(keys.count))
            for key in keys { write(prefixed: key) }
        }
    }
}

extension ByteReader {
    /// A count beyond what the bytes left can hold is refused before anything is built.
    mutating func readList<T>(elementBytesMin: Int, _ element: (inout ByteReader) throws(MalformedBytes) -> T) throws(MalformedBytes) -> [T] {
        let count: UInt32 = try read()
        guard Int(count) <= remaining / elementBytesMin else { throw MalformedBytes("list of \(count) elements in \(remaining) bytes", at: offset) }
        var list: [T] = []
        list.reserveCapacity(Int(count))
        for _ in 0..<count { list.append(try element(&self)) }
        return list
    }
    fileprivate mutating func readPosition() throws(MalformedBytes) -> EntryPosition { EntryPosition(index: try read(), term: try read()) }

    fileprivate mutating func readMessage(from: MemberID, to: MemberID) throws(MalformedBytes) -> Message {
        let term: Term = try read(), kind: UInt8 = try read()
        let body: Message.Body
        switch kind {
        case 0: body = .preVoteRequest(last: try readPosition())
        case 1: body = .preVoteResponse(granted: try readBool())
        case 2: body = .voteRequest(last: try readPosition(), isTransfer: try readBool())
        case 3: body = .voteResponse(granted: try readBool())
        case 4: body = try readAppend()
        case 5: body = .appended(through: try read())
        case 6: body = .appendRejected(previous: try read(), hint: try readPosition())
        case 7: body = .heartbeat(commit: try read(), readSequence: try read())
        case 8: body = .heartbeatResponse(readSequence: try read())
        case 9: body = .outdated
        case 10: body = .timeoutNow
        case 11: body = .readRequest(try read())
        case 12: body = .readResponse(try read(), index: try read())
        case 13: body = .committed(try readPosition())
        default: throw MalformedBytes("\(kind) is no message of Raft's", at: offset - 1)
        }
        return Message(from: from, to: to, term: term, body)
    }
    private mutating func readAppend() throws(MalformedBytes) -> Message.Body {
        let previous = try readPosition(), commit: LogIndex = try read()
        var index = previous.index
        let entries = try readList(elementBytesMin: 13) { reader throws(MalformedBytes) in
            let (next, overflow) = index.addingReportingOverflow(1)
            guard !overflow else { throw MalformedBytes("an entry beyond the last index", at: reader.offset) }
            index = next
            let term: Term = try reader.read(), raw: UInt8 = try reader.read()
            guard let kind = Entry.Kind(rawValue: raw) else { throw MalformedBytes("\(raw) is no kind of entry", at: reader.offset - 1) }
            return Entry(index: index, term: term, kind: kind, payload: try reader.readPrefixed())
        }
        return .append(previous: previous, entries: entries, commit: commit)
    }

    fileprivate mutating func readQuestion() throws(MalformedBytes) -> ForwardedQuestion {
        let id = ForwardedID(try read(), try read()), kind: UInt8 = try read()
        switch kind {
        case 0: return ForwardedQuestion(id, .leaseKeepAlive(try read()))
        case 1: return ForwardedQuestion(id, .leaseStatus(try read(), withKeys: try readBool()))
        default: throw MalformedBytes("\(kind) is no question", at: offset - 1)
        }
    }

    fileprivate mutating func readOutcome() throws(MalformedBytes) -> ForwardedOutcome {
        let id = ForwardedID(try read(), try read()), number: UInt8 = try read()
        let kind: ForwardedOutcome.Kind
        switch number {
        case 0:
            let leader: UInt64 = try read()
            kind = .notLeader(leader == 0 ? nil : MemberID(leader))
        case 1: kind = .noSpace
        case 2: kind = .overloaded
        case 3: kind = .malformed
        case 4: kind = .refused(.notInSync(MemberID(try read())))
        case 5: kind = .refused(.losesQuorum)
        case 6: kind = .refused(.underWay)
        case 7: kind = .leaseNotFound
        case 8: kind = .leaseKeptAlive(try read(), seconds: try read(), revision: try read())
        case 9:
            let id: LeaseID = try read(), granted: Int64 = try read(), remaining: Int64 = try read(), revision: Int64 = try read()
            let keys = try readList(elementBytesMin: 4) { reader throws(MalformedBytes) in try reader.readPrefixed() }
            kind = .leaseStatus(id, grantedSeconds: granted, remainingSeconds: remaining, keys: keys, revision: revision)
        case 10: kind = .refused(.tooManyLearners)
        case 11: kind = .refused(.notFounded)
        default: throw MalformedBytes("\(number) is no outcome", at: offset - 1)
        }
        return ForwardedOutcome(id, kind)
    }
}

// MARK: - Membership, as it is stored

extension Membership {
    private static let format: UInt8 = 1

    package func encode() -> Bytes {
        var writer = ByteWriter(capacity: 64)
        writer.write(Self.format)
        writer.write(bool: autoLeave)
        for list in [voters.voters, outgoing.voters, learners, learnersNext] {
            writer.write(UInt32(list.count))
            for member in list { writer.write(member.rawValue) }
        }
        return writer.bytes
    }
    package init(decoding bytes: Bytes) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        let format: UInt8 = try reader.read()
        guard format == Self.format else { throw MalformedBytes("membership of format \(format)", at: 0) }
        let autoLeave = try reader.readBool()
        var lists: [[MemberID]] = []
        for _ in 0..<4 { lists.append(try reader.readList(elementBytesMin: 8) { reader throws(MalformedBytes) in MemberID(try reader.read()) }) }
        try reader.expectEnd()
        do {
            self = try Membership(voters: lists[0], outgoing: lists[1], learners: lists[2], learnersNext: lists[3], autoLeave: autoLeave)
        } catch { throw MalformedBytes("\(error)", at: 0) }
    }
}
