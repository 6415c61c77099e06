package import Basics
import Logging
package import NIOCore
import Synchronization

/// What one member asks another, outside of Raft.
package enum PeerRequest: Equatable, Sendable {
    /// Who is in the cluster: `PeerFacts`.
    case facts
    /// The seal file. `bootstrap`: the fingerprint of the initial cluster the asking member was started with; empty for one that joins an old cluster.
    case sealFile(bootstrap: Bytes)
    /// The sealed value at a revision, by one that found its own damaged.
    case value(Revision)
    /// As `facts`, and no older than this question: a member that is behind could name whom the cluster has removed since.
    case currentFacts

    package func encode() -> Bytes {
        var writer = ByteWriter()
        switch self {
        case .facts: writer.write(UInt8(1))
        case .sealFile(let bootstrap):
            writer.write(UInt8(2))
            writer.write(prefixed: bootstrap)
        case .value(let revision):
            writer.write(UInt8(3))
            writer.write(revision.main)
            writer.write(revision.sub)
        case .currentFacts: writer.write(UInt8(4))
        }
        return writer.bytes
    }
    package init(decoding bytes: Bytes) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        switch try reader.read(UInt8.self) {
        case 1: self = .facts
        case 2:
            let bootstrap = try reader.readPrefixed()
            guard bootstrap.count <= 64 else { throw MalformedBytes("a fingerprint of \(bootstrap.count) bytes", at: reader.offset) }
            self = .sealFile(bootstrap: bootstrap)
        case 3: self = .value(Revision(try reader.read(), try reader.read()))
        case 4: self = .currentFacts
        case let other: throw MalformedBytes("an unknown request \(other)", at: 0)
        }
        try reader.expectEnd()
    }
}

/// A member's answer to `facts`.
package struct PeerFacts: Equatable, Sendable {
    package struct Member: Equatable, Sendable {
        package var id: MemberID
        package var name: String
        package var peerURLs: [String]
        package var clientURLs: [String]
        package var isLearner: Bool
        /// It has spoken to the answering member.
        package var wasHeard: Bool
        package init(id: MemberID, name: String, peerURLs: [String], clientURLs: [String], isLearner: Bool, wasHeard: Bool = false) {
            self.id = id; self.name = name; self.peerURLs = peerURLs; self.clientURLs = clientURLs; self.isLearner = isLearner; self.wasHeard = wasHeard
        }
        /// It was started before: told the cluster where its clients reach it, or spoke to its peers, and with that may have voted.
        package var tookPart: Bool { wasHeard || !clientURLs.isEmpty }
    }
    package static let membersMax = 64
    package var cluster: UInt64
    /// The answering member, and whom it takes for the leader.
    package var member: MemberID
    package var leader: MemberID?
    package var members: [Member]
    package init(cluster: UInt64, member: MemberID, leader: MemberID?, members: [Member]) {
        self.cluster = cluster; self.member = member; self.leader = leader; self.members = members
    }

    package func encode() -> Bytes {
        var writer = ByteWriter(capacity: 256)
        writer.write(cluster)
        writer.write(member.rawValue)
        writer.write(leader?.rawValue ?? 0)
        writer.write(UInt16(min(members.count, Self.membersMax)))
        for member in members.prefix(Self.membersMax) {
            writer.write(member.id.rawValue)
            writer.write(prefixed: member.name.utf8)
            writer.write(bool: member.isLearner)
            writer.write(bool: member.wasHeard)
            for urls in [member.peerURLs, member.clientURLs] {
                writer.write(UInt8(min(urls.count, PeerLimits.urlsMax)))
                for url in urls.prefix(PeerLimits.urlsMax) { writer.write(prefixed: url.utf8) }
            }
        }
        return writer.bytes
    }
    package init(decoding bytes: Bytes) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        cluster = try reader.read(UInt64.self)
        member = MemberID(try reader.read(UInt64.self))
        let leader = try reader.read(UInt64.self)
        self.leader = leader == 0 ? nil : MemberID(leader)
        let count = try reader.read(UInt16.self)
        guard count <= Self.membersMax else { throw MalformedBytes("\(count) members", at: reader.offset) }
        members = []
        for _ in 0..<count {
            let id = MemberID(try reader.read(UInt64.self)), name = try reader.readText(), isLearner = try reader.readBool(), wasHeard = try reader.readBool()
            let peerURLs = try Self.urls(&reader), clientURLs = try Self.urls(&reader)
            members.append(Member(id: id, name: name, peerURLs: peerURLs, clientURLs: clientURLs, isLearner: isLearner, wasHeard: wasHeard))
        }
        try reader.expectEnd()
    }
    private static func urls(_ reader: inout ByteReader) throws(MalformedBytes) -> [String] {
        let count = try reader.read(UInt8.self)
        guard count <= PeerLimits.urlsMax else { throw MalformedBytes("\(count) addresses", at: reader.offset) }
        var urls: [String] = []
        for _ in 0..<count { urls.append(try reader.readText()) }
        return urls
    }
}

/// Answers requests of other members, whose certificates and names are verified.
package protocol PeerResponder: Sendable {
    /// What it throws is told to the asking member, as text.
    func respond(to request: PeerRequest, from peer: PeerGreeting) async throws -> Bytes
}

/// The other member's reason for not answering.
package struct PeerRequestRefused: Error, Equatable, Sendable, CustomStringConvertible {
    package var description: String
    package init(_ description: String) { self.description = description }
}

/// The body of an `answer` frame: 1 and the answer, or 0 and why not.
enum PeerAnswer {
    static func encode(_ result: Result<Bytes, PeerRequestRefused>) -> Bytes {
        var writer = ByteWriter()
        switch result {
        case .success(let body):
            writer.write(bool: true)
            writer.write(prefixed: body)
        case .failure(let refused):
            writer.write(bool: false)
            writer.write(prefixed: String(refused.description.prefix(256)).utf8)
        }
        return writer.bytes
    }
    static func decode(_ bytes: Bytes) throws(MalformedBytes) -> Result<Bytes, PeerRequestRefused> {
        var reader = ByteReader(bytes)
        let result: Result<Bytes, PeerRequestRefused> =
            try reader.readBool() ? .success(try reader.readPrefixed()) : .failure(PeerRequestRefused(try reader.readText()))
        try reader.expectEnd()
        return result
    }
}

extension PeerTransport {
    /// Asks whoever answers at `url`. Throws `PeerFailure`, or `PeerRequestRefused` when it answered that it will not.
    package func ask(_ request: PeerRequest, of url: PeerURL, on eventLoop: any EventLoop) async throws -> (answer: Bytes, peer: PeerGreeting) {
        let promise = eventLoop.makePromise(of: (answer: Bytes, peer: PeerGreeting).self)
        eventLoop.execute { [self] in
            let asking = AskingPeer(request: request, promise: promise)
            let timeout = eventLoop.assumeIsolated().scheduleTask(in: .seconds(PeerLimits.requestSeconds)) {
                asking.fail(.unreachable("\(url): no answer within \(PeerLimits.requestSeconds) s"))
            }
            promise.futureResult.whenComplete { _ in timeout.cancel() }
            let bound = NIOLoopBound(asking, eventLoop: eventLoop)
            connect(to: url, hello: greeting(.requests, to: nil), on: eventLoop, owner: bound).whenFailure { error in
                bound.value.fail((error as? PeerFailure) ?? .unreachable("\(url): \(error)"))
            }
        }
        return try await promise.futureResult.get()
    }
}

/// The asking side of one request.
private final class AskingPeer: PeerSessionOwner {
    private let request: PeerRequest
    private var promise: EventLoopPromise<(answer: Bytes, peer: PeerGreeting)>?
    private var session: PeerSession?
    init(request: PeerRequest, promise: EventLoopPromise<(answer: Bytes, peer: PeerGreeting)>) {
        self.request = request
        self.promise = promise
    }
    func opened(_ session: PeerSession, with greeting: PeerGreeting) {
        self.session = session
        session.send(PeerFrame(.request, request.encode()))
    }
    func received(_ frame: PeerFrame, on session: PeerSession) throws(PeerViolation) {
        guard frame.kind == .answer, let peer = session.peer else { throw .unexpected(frame.kind) }
        do throws(MalformedBytes) {
            switch try PeerAnswer.decode(frame.body) {
            case .success(let body): promise?.succeed((body, peer))
            case .failure(let refused): promise?.fail(refused)
            }
        } catch { throw .malformed(.answer, error) }
        promise = nil
        session.close(because: .closed)
    }
    func fail(_ failure: PeerFailure) {
        promise?.fail(failure)
        promise = nil
        session?.close(because: failure)
        session = nil
    }
    func closed(_ session: PeerSession, because failure: PeerFailure) { fail(failure) }
    func writable(_ session: PeerSession) {}
    func greeted(by greeting: PeerGreeting, on session: PeerSession) throws(PeerRefusal) -> PeerGreeting { preconditionFailure("it connects") }
}
