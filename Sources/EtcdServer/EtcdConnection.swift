import Audit
import Barrier
import Basics
import EtcdProtocol
import MVCC
import NIOCore
import NIOHPACK
import ReplicaService
import RPC

/// One client's connection: what each call means. Event loop only.
final class EtcdConnection: ConnectionService {
    enum Method: Int {
        case range, put, deleteRange, transaction, compact
        case watch
        case leaseGrant, leaseRevoke, leaseKeepAlive, leaseTimeToLive, leaseLeases
        case memberList, memberAdd, memberRemove, memberUpdate, memberPromote
        case status, alarm, defragment, hash, hashKeys, moveLeader
    }

    private static let methods: [String: Method] = [
        "/etcdserverpb.KV/Range": .range, "/etcdserverpb.KV/Put": .put, "/etcdserverpb.KV/DeleteRange": .deleteRange,
        "/etcdserverpb.KV/Txn": .transaction, "/etcdserverpb.KV/Compact": .compact,
        "/etcdserverpb.Watch/Watch": .watch,
        "/etcdserverpb.Lease/LeaseGrant": .leaseGrant, "/etcdserverpb.Lease/LeaseRevoke": .leaseRevoke,
        "/etcdserverpb.Lease/LeaseKeepAlive": .leaseKeepAlive, "/etcdserverpb.Lease/LeaseTimeToLive": .leaseTimeToLive,
        "/etcdserverpb.Lease/LeaseLeases": .leaseLeases,
        "/etcdserverpb.Cluster/MemberList": .memberList, "/etcdserverpb.Cluster/MemberAdd": .memberAdd,
        "/etcdserverpb.Cluster/MemberRemove": .memberRemove, "/etcdserverpb.Cluster/MemberUpdate": .memberUpdate,
        "/etcdserverpb.Cluster/MemberPromote": .memberPromote,
        "/etcdserverpb.Maintenance/Status": .status, "/etcdserverpb.Maintenance/Alarm": .alarm,
        "/etcdserverpb.Maintenance/Defragment": .defragment, "/etcdserverpb.Maintenance/Hash": .hash,
        "/etcdserverpb.Maintenance/HashKV": .hashKeys, "/etcdserverpb.Maintenance/MoveLeader": .moveLeader,
    ]

    let service: EtcdService
    let loop: EtcdLoop
    let transport: any ServerTransport
    let caller: Caller
    var watchStreams: [StreamID: WatchStream] = [:]
    /// Half-closed by the client: they end when their last answer is sent.
    private var keepAlives: [StreamID: KeepAliveStream] = [:]
    private struct KeepAliveStream {
        var inFlight = 0
        var halfClosed = false
    }
    /// Has something to flush (`EtcdLoop.touch`).
    var isTouched = false

    init(service: EtcdService, loop: EtcdLoop, transport: any ServerTransport) {
        self.service = service
        self.loop = loop
        self.transport = transport
        caller = Caller(peer: transport.peer)
    }

    // MARK: The transport's side

    func open(_ stream: StreamID, path: String, metadata: HPACKHeaders) -> CallShape {
        guard path != "/etcdserverpb.Maintenance/Snapshot" else { return .refused(.noSnapshot) }
        guard let method = Self.methods[path] else { return .refused(Status(.unimplemented, "unknown method \(path)")) }
        switch method {
        case .watch:
            watchStreams[stream] = WatchStream()
            return .streaming(method: method.rawValue)
        case .leaseKeepAlive:
            keepAlives[stream] = KeepAliveStream()
            return .streaming(method: method.rawValue)
        default:
            return .unary(method: method.rawValue)
        }
    }

    func message(_ message: ByteBuffer, on stream: StreamID, method: Int) {
        guard let method = Method(rawValue: method) else { return }
        do {
            try handle(message, on: stream, method)
        } catch let pending as Barrier.DomainPending {
            prepare(pending.domain, then: message, on: stream, method)
        } catch {
            refuse(stream, error)
        }
    }

    private func refuse(_ stream: StreamID, _ error: any Error) {
        let status = switch error {
        case let status as Status: status
        case let error as WireError: Status.malformed(error)
        case let failure as EtcdFailure: Status(failure)
        default: Status(.unavailable, "etcdserver: the value cannot be sealed: \(error)")
        }
        transport.finish(stream, status)
        loop.touch(self)
    }

    func halfClose(_ stream: StreamID, method: Int) {
        switch Method(rawValue: method) {
        case .watch:
            endWatchStream(stream)
            transport.finish(stream, .ok)
        case .leaseKeepAlive:
            keepAlives[stream]?.halfClosed = true
            finishKeepAlive(stream)
        default: break
        }
    }

    func reset(_ stream: StreamID, method: Int) {
        switch Method(rawValue: method) {
        case .watch: endWatchStream(stream)
        case .leaseKeepAlive: keepAlives[stream] = nil
        default: break  // The answer to a unary call comes all the same, and finds its stream gone.
        }
    }

    func writability(_ writable: Bool, of stream: StreamID, method: Int) { watchWritability(writable, of: stream) }

    func readComplete() { loop.flushTouched() }

    func closed() {
        for stream in watchStreams.keys.sorted() { endWatchStream(stream) }
        keepAlives.removeAll()
    }

    // MARK: Requests

    private func handle(_ message: ByteBuffer, on stream: StreamID, _ method: Method) throws {
        switch method {
        case .put: try put(message, on: stream)
        case .range: try range(message, on: stream)
        case .deleteRange: try deleteRange(message, on: stream)
        case .transaction: try transaction(message, on: stream)
        case .compact:
            let request = try CompactionRequestMessage(decoding: message)
            let admission = try admit([.administer("compact")], .compact, key: Bytes(String(request.revision).utf8)) {}
            loop.enqueue(.compact(revision: request.revision), .compact, admission, on: stream, of: self)
        case .watch: try watchRequest(try WatchRequestMessage(decoding: message), on: stream)
        case .leaseGrant:
            let request = try LeaseGrantRequestMessage(decoding: message)
            let admission = try admit([.lease(request.id)], .leaseGrant, key: Self.name(ofLease: request.id)) {}
            loop.enqueue(.leaseGrant(id: request.id, seconds: request.seconds), .leaseGrant, admission, on: stream, of: self)
        case .leaseRevoke:
            let request = try IdentifierMessage(decoding: message)
            let admission = try admit([.lease(request.id)], .leaseRevoke, key: Self.name(ofLease: request.id)) {}
            loop.enqueue(.leaseRevoke(id: request.id), .leaseRevoke, admission, on: stream, of: self)
        case .leaseKeepAlive:
            let id = try IdentifierMessage(decoding: message).id
            keepAlives[stream]?.inFlight += 1
            loop.enqueue(.leaseKeepAlive(id), .leaseKeepAlive(id), nil, on: stream, of: self)
        case .leaseTimeToLive:
            let request = try LeaseTimeToLiveRequestMessage(decoding: message)
            _ = try admit([.lease(request.id)], .range) {}
            loop.enqueue(.leaseStatus(request.id, withKeys: request.keys), .leaseStatus(request.id), nil, on: stream, of: self)
        case .leaseLeases:
            loop.enqueue(.leases, .leases, nil, on: stream, of: self)
        default: try administer(message, on: stream, method)
        }
    }

    /// Cluster and Maintenance.
    private func administer(_ message: ByteBuffer, on stream: StreamID, _ method: Method) throws {
        let administration = service.administration
        switch method {
        case .memberList:
            let request = try MemberListRequestMessage(decoding: message)
            try administer(nil, on: stream) { try await administration.memberList(request) }
        case .memberAdd:
            let request = try MemberAddRequestMessage(decoding: message)
            try administer(.memberChange, on: stream) { try await administration.memberAdd(request) }
        case .memberRemove:
            let request = try MemberIDRequestMessage(decoding: message)
            try administer(.memberChange, on: stream) { try await administration.memberRemove(request) }
        case .memberUpdate:
            let request = try MemberUpdateRequestMessage(decoding: message)
            try administer(.memberChange, on: stream) { try await administration.memberUpdate(request) }
        case .memberPromote:
            let request = try MemberIDRequestMessage(decoding: message)
            try administer(.memberChange, on: stream) { try await administration.memberPromote(request) }
        case .status: try administer(nil, on: stream) { administration.status() }
        case .alarm:
            let request = try AlarmRequestMessage(decoding: message)
            try administer(request.action == .get ? nil : .alarm, on: stream) { try await administration.alarm(request) }
        case .defragment: try administer(.defragment, on: stream) { administration.defragment() }
        case .hash: try administer(nil, on: stream) { try await administration.hash(at: 0) }
        case .hashKeys:
            let request = try HashRevisionRequestMessage(decoding: message)
            try administer(nil, on: stream) { try await administration.hash(at: request.revision) }
        case .moveLeader:
            let request = try MemberIDRequestMessage(decoding: message)
            try administer(.moveLeader, on: stream) { try await administration.moveLeader(request) }
        default: throw Status(.unimplemented, "etcdserver: no such call")
        }
    }

    /// `verb`: recorded in the trail before anything is done.
    private func administer<Answer: WireMessage>(
        _ verb: AuditedOperation.Verb?, on stream: StreamID, _ body: @escaping @Sendable () async throws -> Answer
    ) throws {
        let admission = try admit([.administer(verb?.rawValue ?? "status")], verb ?? .status) {}
        let trail = verb == nil ? nil : service.trail
        let ticket: AuditTicket?
        do { ticket = try trail?.record([admission.operation]) } catch { throw Status(.unavailable, "etcdserver: the audit trail cannot be written") }
        let bound = NIOLoopBound(self, eventLoop: transport.eventLoop)
        let (allocator, eventLoop) = (transport.allocator, transport.eventLoop)
        Task {
            let built: Result<ByteBuffer, Status>
            do {
                let answer = try await body()
                if let trail, let ticket, await !trail.isDurable(ticket) { throw Status(.unavailable, "etcdserver: the audit trail cannot be written") }
                built = .success(try MessageFraming.framed(capacity: answer.encodedBytes, allocator: allocator) { buffer throws in
                    try answer.encode(into: &buffer)
                })
            } catch {
                built = .failure(error as? Status ?? Status(.internal, "etcdserver: \(error)"))
            }
            eventLoop.execute {
                bound.value.finish(stream, built)
                bound.value.transport.flush()
            }
        }
    }

    private func admit(
        _ accesses: [Access], _ verb: AuditedOperation.Verb, key: Bytes = [], rangeEnd: Bytes = [], count: Int = 1,
        validate: () throws(Status) -> Void
    ) throws(Status) -> Admission {
        let operation = AuditedOperation(verb: verb, key: key, rangeEnd: rangeEnd, count: count, peer: caller.peer.address)
        return try service.gate.admit(accesses, as: operation, caller: caller, validate: validate)
    }

    /// As etcdctl writes it.
    private static func name(ofLease id: LeaseID) -> Bytes { Bytes(String(UInt64(bitPattern: id), radix: 16).utf8) }

    private func put(_ message: ByteBuffer, on stream: StreamID) throws {
        guard message.readableBytes <= Limits.requestBytesMax else { throw Status.requestTooLarge }
        let request = try PutRequestMessage.decoded(message)
        let range = KeyRange(request.key)
        let admission = try admit(request.prevKV ? [.write(range), .read(range)] : [.write(range)], .put, key: request.key) { () throws(Status) in
            try request.validate()
        }
        loop.enqueue(.put(try request.sealed(by: service.barrier)), .put, admission, on: stream, of: self)
    }

    private func range(_ message: ByteBuffer, on stream: StreamID) throws {
        let request = try RangeRequestMessage.decoded(message)
        let admission = try admit([.read(request.interval)], .range, key: request.key, rangeEnd: request.rangeEnd) { () throws(Status) in
            try request.validate()
        }
        let (lowered, shape) = request.lowered()
        loop.enqueue(.range(lowered, linearizable: !request.serializable), .range(shape), admission, on: stream, of: self)
    }

    private func deleteRange(_ message: ByteBuffer, on stream: StreamID) throws {
        guard message.readableBytes <= Limits.requestBytesMax else { throw Status.requestTooLarge }
        let request = try DeleteRangeRequestMessage(decoding: message)
        let accesses: [Access] = request.prevKV ? [.write(request.interval), .read(request.interval)] : [.write(request.interval)]
        let admission = try admit(accesses, .deleteRange, key: request.key, rangeEnd: request.rangeEnd) { () throws(Status) in
            try request.validate()
        }
        loop.enqueue(.deleteRange(request.lowered()), .deleteRange, admission, on: stream, of: self)
    }

    private func transaction(_ message: ByteBuffer, on stream: StreamID) throws {
        guard message.readableBytes <= Limits.requestBytesMax else { throw Status.requestTooLarge }
        let request = try TransactionRequestMessage(decoding: message)
        var accesses: [Access] = []
        request.accesses(into: &accesses)
        var operation = AuditedOperation(verb: .txn, count: accesses.count, peer: caller.peer.address)
        operation.accesses = accesses
        let admission = try service.gate.admit(accesses, as: operation, caller: caller) { () throws(Status) in try request.validate() }
        let shape = request.shape
        loop.enqueue(.transaction(try request.sealed(by: service.barrier)), .transaction(success: shape.success, failure: shape.failure),
                     admission, on: stream, of: self)
    }

    /// The first write of a domain makes its keys, which is a write of its own; then the request is taken up again.
    private func prepare(_ domain: Domain, then message: ByteBuffer, on stream: StreamID, _ method: Method) {
        let bound = NIOLoopBound(self, eventLoop: transport.eventLoop)
        let (barrier, eventLoop) = (service.barrier, transport.eventLoop)
        Task {
            var failure: EtcdFailure?
            do throws(EtcdFailure) { try await barrier.prepare(domain) } catch { failure = error }
            eventLoop.execute { [failure] in
                let connection = bound.value
                if let failure { connection.refuse(stream, failure) } else { connection.message(message, on: stream, method: method.rawValue) }
                connection.loop.flushTouched()
            }
        }
    }

    // MARK: Answers

    func finish(_ stream: StreamID, _ built: Result<ByteBuffer, Status>) {
        switch built {
        case .success(let message): transport.answer(message, on: stream)
        case .failure(let status): transport.finish(stream, status)
        }
    }

    /// One answer of a keep-alive stream.
    func send(_ builder: AnswerBuilder, _ body: AnswerBody, _ request: EtcdLoop.Pending) {
        guard let message = try? builder.message(body, request.reply, allocator: transport.allocator) else { return }
        sendKeptAlive(message, on: request.stream)
    }

    private func sendKeptAlive(_ message: ByteBuffer, on stream: StreamID) {
        guard keepAlives[stream] != nil else { return }
        transport.send(message, on: stream)
        keepAlives[stream]?.inFlight -= 1
        finishKeepAlive(stream)
    }

    private func finishKeepAlive(_ stream: StreamID) {
        guard let state = keepAlives[stream], state.halfClosed, state.inFlight == 0 else { return }
        keepAlives[stream] = nil
        transport.finish(stream, .ok)
    }

    /// etcd answers for a lease that is gone: a keep-alive with TTL 0, a time-to-live with -1. Others fail.
    func answerMissingLease(_ request: EtcdLoop.Pending, term: UInt64) -> Bool {
        let header = service.header(revision: service.barrier.status().revision, term: term)
        let allocator = transport.allocator
        switch request.reply {
        case .leaseKeepAlive(let id):
            let message = LeaseResponseMessage(header: header, id: id, seconds: 0)
            guard let framed = try? MessageFraming.framed(capacity: 64, allocator: allocator, { buffer throws in try message.encode(into: &buffer) }) else { return false }
            sendKeptAlive(framed, on: request.stream)
        case .leaseStatus(let id):
            var message = LeaseTimeToLiveResponseMessage()
            message.header = header
            message.id = id
            message.seconds = -1
            guard let framed = try? MessageFraming.framed(capacity: 64, allocator: allocator, { buffer throws in try message.encode(into: &buffer) }) else { return false }
            transport.answer(framed, on: request.stream)
        default:
            return false
        }
        return true
    }
}
