import Audit
import Barrier
import Basics
import EtcdClient
import EtcdProtocol
import EtcdServer
import Logging
import NIOCore
import RPC
import SecretMemory
import Synchronization
import Testing

@Suite struct KeyValueTests {
    @Test("what is put is got, with etcd's numbers")
    func putsAndGets() async throws {
        try await ServedStore.run { store in
            let first = try await store.put("a", "one")
            let second = try await store.put("a", "two")
            #expect(second == first + 1)
            let answer = try await store.client.range(RangeRequestMessage(key: bytes("a")))
            let kv = try #require(answer.kvs.first)
            #expect(String(buffer: kv.plainValue) == "two")
            #expect(kv.createRevision == first && kv.modRevision == second && kv.version == 2)
            #expect(answer.count == 1 && !answer.more)
            let header = try #require(answer.header)
            #expect(header.clusterID == 11 && header.memberID == 22 && header.revision == second && header.raftTerm > 0)
        }
    }

    @Test("an empty value and one as large as a request may be come back as they were", arguments: [0, 1, 1_000_000])
    func keepsSizes(size: Int) async throws {
        try await ServedStore.run { store in
            let value = Bytes((0..<size).map { UInt8(truncatingIfNeeded: $0) })
            _ = try await store.client.put(bytes("k"), value)
            let kv = try #require(try await store.client.range(RangeRequestMessage(key: bytes("k"))).kvs.first)
            #expect(Bytes(kv.plainValue.readableBytesView) == value)
        }
    }

    @Test("ranges obey prefix, limit, order, revision, keys only and count only")
    func ranges() async throws {
        try await ServedStore.run { store in
            let first = try await store.put("b", "2")
            for (key, value) in [("a", "3"), ("c", "1"), ("d", "4")] { try await store.put(key, value) }
            #expect(try await store.list().keys == ["a", "b", "c", "d"])
            let limited = try await store.list { $0.limit = 2 }
            #expect(limited.keys == ["a", "b"] && limited.more && limited.count == 4)
            #expect(try await store.list { $0.sortOrder = .descend }.keys == ["d", "c", "b", "a"])
            #expect(try await store.list { $0.sortTarget = .create }.keys == ["b", "a", "c", "d"])
            #expect(try await store.list { $0.sortTarget = .value }.values == ["1", "2", "3", "4"])
            let byValue = try await store.list { $0.sortTarget = .value; $0.sortOrder = .descend; $0.limit = 2 }
            #expect(byValue.values == ["4", "3"] && byValue.more)
            #expect(try await store.list { $0.revision = first }.keys == ["b"])
            let keysOnly = try await store.list { $0.keysOnly = true }
            #expect(keysOnly.keys.count == 4 && keysOnly.values.allSatisfy(\.isEmpty))
            let counted = try await store.list { $0.countOnly = true }
            #expect(counted.kvs.isEmpty && counted.count == 4)
            #expect(try await store.client.range(RangeRequestMessage(key: bytes("b"), rangeEnd: bytes("d"))).keys == ["b", "c"])
        }
    }

    @Test("a target without an order sorts one key more than the limit, as etcd does, by value too")
    func sortsWhatWasCut() async throws {
        try await ServedStore.run { store in
            for (key, value) in [("z", "0"), ("b", "3"), ("a", "2"), ("c", "1")] { try await store.put(key, value) }
            for target in [RangeRequestMessage.SortTarget.mod, .create, .value] {
                // Of a and b the one that is less, though c and z are less still.
                let least = try await store.list { $0.limit = 1; $0.sortTarget = target }
                #expect(least.keys == [target == .value ? "a" : "b"] && least.more && least.count == 4, "\(target)")
                let ordered = try await store.list { $0.limit = 1; $0.sortTarget = target; $0.sortOrder = .ascend }
                #expect(ordered.keys == ["z"] && ordered.more, "\(target)")
                let all = try await store.list { $0.sortTarget = target }
                #expect(all.keys == (target == .value ? ["z", "c", "a", "b"] : ["z", "b", "a", "c"]), "\(target)")
            }
        }
    }

    @Test("a long range is answered whole, off the event loop")
    func answersLongRanges() async throws {
        try await ServedStore.run { store in
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<600 { group.addTask { try await store.put("k/\(number)", String(repeating: "v", count: number)) } }
                try await group.waitForAll()
            }
            let answer = try await store.list()
            #expect(answer.kvs.count == 600)
            #expect(answer.kvs.allSatisfy { kv in kv.plainValue.readableBytes == Int(text(kv.key).dropFirst(2)) })
        }
    }

    @Test("a short range of large values is answered whole, off the event loop, and what comes with it as ever")
    func heavyRange() async throws {
        try await ServedStore.run { store in
            for key in ["a", "b", "c", "d", "e", "f"] { _ = try await store.client.put(bytes(key), Bytes(repeating: key.utf8.first!, count: 1_000_000)) }
            async let small = store.client.range(RangeRequestMessage(key: bytes("a")))
            let large = try await store.list()
            #expect(large.keys == ["a", "b", "c", "d", "e", "f"])
            #expect(large.kvs.allSatisfy { kv in Bytes(kv.plainValue.readableBytesView) == Bytes(repeating: kv.key[0], count: 1_000_000) })
            #expect(try await small.kvs.count == 1)
        }
    }

    @Test("previous values, kept values and kept leases")
    func keepsPrevious() async throws {
        try await ServedStore.run { store in
            let lease = try await store.client.grantLease(seconds: 600).id
            try await store.put("k", "old", lease: lease)
            var request = PutRequestMessage(key: bytes("k"), value: ByteBuffer())
            request.ignoreValue = true
            request.prevKV = true
            let previous = try #require(try await store.client.put(request).prevKV)
            #expect(String(buffer: previous.plainValue) == "old" && previous.lease == lease)
            let kept = try #require(try await store.client.range(RangeRequestMessage(key: bytes("k"))).kvs.first)
            #expect(String(buffer: kept.plainValue) == "old" && kept.lease == 0 && kept.version == 2)
            let deleted = try await store.client.deleteRange(DeleteRangeRequestMessage(key: bytes("k"), prevKV: true))
            #expect(deleted.deleted == 1 && String(buffer: deleted.prevKVs[0].plainValue) == "old")
            #expect(try await store.get("k") == nil)
        }
    }

    @Test("a transaction compares, by value too, and answers each operation")
    func transacts() async throws {
        try await ServedStore.run { store in
            let before = try await store.put("k", "one")
            var request = TransactionRequestMessage()
            request.compare = [compare("k", .equal, value: "one")]
            request.success = [putOperation("k", "two"), RequestOperationMessage(.range(RangeRequestMessage(key: bytes("k"))))]
            request.failure = [RequestOperationMessage(.range(RangeRequestMessage(key: bytes("k"))))]
            let first = try await store.client.transaction(request)
            #expect(first.succeeded && first.header?.revision == before + 1)
            guard case .range(let seen) = first.responses[1].response else { throw Unexpected() }
            #expect(seen.values == ["two"] && seen.header?.revision == before + 1)
            let second = try await store.client.transaction(request)
            guard case .range(let now) = second.responses[0].response else { throw Unexpected() }
            #expect(!second.succeeded && second.header?.revision == before + 1 && now.values == ["two"])
        }
    }

    @Test("a transaction within a transaction runs in the same revision")
    func nests() async throws {
        try await ServedStore.run { store in
            var inner = TransactionRequestMessage()
            inner.compare = [compare("absent", .equal, value: "x")]
            inner.failure = [putOperation("inner", "2")]
            var outer = TransactionRequestMessage()
            outer.success = [putOperation("outer", "1"), RequestOperationMessage(.transaction(inner))]
            let answer = try await store.client.transaction(outer)
            guard case .transaction(let nested) = answer.responses[1].response else { throw Unexpected() }
            #expect(!nested.succeeded)
            let kvs = try await store.list().kvs
            let header = try #require(answer.header)
            #expect(kvs.map { text($0.key) } == ["inner", "outer"] && kvs.allSatisfy { $0.modRevision == header.revision })
        }
    }

    @Test("compaction takes history away and nothing else")
    func compacts() async throws {
        try await ServedStore.run { store in
            let old = try await store.put("k", "one")
            let new = try await store.put("k", "two")
            _ = try await store.client.compact(revision: new)
            #expect(try await store.get("k") == "two")
            await #expect(throws: Status(.outOfRange, "etcdserver: mvcc: required revision has been compacted")) {
                try await store.list { $0.revision = old }
            }
            await #expect(throws: Status(.outOfRange, "etcdserver: mvcc: required revision has been compacted")) { try await store.client.compact(revision: old) }
        }
    }

    @Test("Coffer's own objects are not there")
    func hidesObjects() async throws {
        try await ServedStore.run { store in
            _ = try await store.barrier.put(bytes("objects/secret"), domain: "prod", value: try .init(copying: bytes("hidden")), if: .none)
            try await store.put("mine", "1")
            #expect(try await store.list().keys == ["mine"])
            #expect(try await store.client.deleteRange(DeleteRangeRequestMessage(key: [0], rangeEnd: [0])).deleted == 1)
            let hidden = try await store.barrier.get(bytes("objects/secret"), revision: 0)
            #expect(hidden?.version == 1)
        }
    }

    @Test("the first write of a namespace of kube-apiserver's secrets makes its keys unseen")
    func makesDomains() async throws {
        try await ServedStore.run { store in
            try await store.put("/registry/secrets/prod/db", "in a domain of its own")
            #expect(try await store.get("/registry/secrets/prod/db") == "in a domain of its own")
        }
    }
}

@Suite struct RefusalTests {
    private func refused(_ store: ServedStore, _ request: TransactionRequestMessage) async -> Status? {
        do {
            _ = try await store.client.transaction(request)
            return nil
        } catch { return error as? Status }
    }

    @Test("malformed requests are refused in etcd's words, and change nothing")
    func refuses() async throws {
        try await ServedStore.run { store in
            await #expect(throws: Status(.invalidArgument, "etcdserver: key is not provided")) { try await store.put("", "v") }
            await #expect(throws: Status(.invalidArgument, "etcdserver: key is not provided")) { try await store.client.range(RangeRequestMessage(key: [])) }
            await #expect(throws: Status(.invalidArgument, "etcdserver: key is not provided")) {
                try await store.client.deleteRange(DeleteRangeRequestMessage(key: []))
            }
            var ignoring = PutRequestMessage(key: bytes("k"), value: ByteBuffer(string: "v"))
            ignoring.ignoreValue = true
            let both = ignoring
            await #expect(throws: Status(.invalidArgument, "etcdserver: value is provided")) { _ = try await store.client.put(both) }
            ignoring.value = ByteBuffer()
            let absent = ignoring
            await #expect(throws: Status(.invalidArgument, "etcdserver: key not found")) { _ = try await store.client.put(absent) }
            await #expect(throws: Status(.notFound, "etcdserver: requested lease not found")) { try await store.put("k", "v", lease: 4_711) }
            await #expect(throws: Status(.outOfRange, "etcdserver: mvcc: required revision is a future revision")) { try await store.list { $0.revision = 999 } }
            await #expect(throws: Status(.invalidArgument, "etcdserver: request is too large")) {
                try await store.put("k", String(repeating: "v", count: Limits.requestBytesMax))
            }
            let left = try await store.list()
            #expect(left.count == 0)
        }
    }

    @Test("malformed transactions are refused in etcd's words")
    func refusesTransactions() async throws {
        try await ServedStore.run { store in
            var many = TransactionRequestMessage()
            many.success = (0...Limits.transactionOperationsMax).map { putOperation("k\($0)", "v") }
            #expect(await refused(store, many) == Status(.invalidArgument, "etcdserver: too many operations in txn request"))
            var twice = TransactionRequestMessage()
            twice.success = [putOperation("k", "1"), putOperation("k", "2")]
            #expect(await refused(store, twice) == Status(.invalidArgument, "etcdserver: duplicate key given in txn request"))
            var deep = TransactionRequestMessage()
            for _ in 0..<Limits.transactionDepthMax {
                var outer = TransactionRequestMessage()
                outer.success = [RequestOperationMessage(.transaction(deep))]
                deep = outer
            }
            #expect(await refused(store, deep) == Status(.invalidArgument, "etcdserver: transactions are nested too deep"))
            var keyless = TransactionRequestMessage()
            keyless.compare = [CompareMessage()]
            #expect(await refused(store, keyless) == Status(.invalidArgument, "etcdserver: key is not provided"))
            let left = try await store.list()
            #expect(left.count == 0)
        }
    }

    private struct NobodyReads: Authorizer {
        func refusal(_ access: Access, by caller: Caller) -> Status? {
            if case .read = access { Status(.permissionDenied, "etcdserver: permission denied") } else { nil }
        }
    }
    @Test("who may not read learns nothing: not by range, watch, previous value, compare or nested transaction")
    func authorizes() async throws {
        try await ServedStore.run(authorizer: NobodyReads()) { store in
            let denied = Status(.permissionDenied, "etcdserver: permission denied")
            try await store.put("k", "v")
            await #expect(throws: denied) { try await store.get("k") }
            var put = PutRequestMessage(key: bytes("k"), value: ByteBuffer(string: "w"))
            put.prevKV = true
            let peeking = put
            await #expect(throws: denied) { _ = try await store.client.put(peeking) }
            var inner = TransactionRequestMessage()
            inner.success = [RequestOperationMessage(.range(RangeRequestMessage(key: bytes("k"))))]
            var outer = TransactionRequestMessage()
            outer.success = [RequestOperationMessage(.transaction(inner))]
            #expect(await refused(store, outer) == denied)
            var comparing = TransactionRequestMessage()
            comparing.compare = [compare("k", .equal, value: "v")]
            #expect(await refused(store, comparing) == denied)
            let call = try await store.client.watch()
            var create = WatchCreateRequestMessage()
            create.key = bytes("k")
            try call.send(.create(create))
            for try await response in call.responses {
                #expect(response.canceled && response.cancelReason == denied.message)
                break
            }
            call.cancel()
        }
    }

    private final class RefusingTrail: AuditTrail {
        struct Full: Error {}
        func record(_ operations: [AuditedOperation]) throws -> AuditTicket { throw Full() }
        var durable: AuditTicket { .none }
        func whenDurable(_ ticket: AuditTicket, _ call: @escaping @Sendable ((any Error)?) -> Void) { call(Full()) }
    }
    @Test("what cannot be audited is not done")
    func auditsFirst() async throws {
        try await ServedStore.run(trail: RefusingTrail()) { store in
            await #expect(throws: Status(.unavailable, "etcdserver: the audit trail cannot be written")) { try await store.put("k", "v") }
        }
    }

    private struct Lines: LogHandler {
        final class Said: Sendable { let lines = Mutex<[String]>([]) }
        let said: Said
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.error
        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }
        func log(event: LogEvent) { said.lines.withLock { $0.append("\(event.message)") } }
    }
    @Test("a trail that fails is told once a second, not once a request")
    func auditComplaints() async throws {
        let said = Lines.Said(), began = ContinuousClock.now
        try await ServedStore.run(trail: RefusingTrail(), logger: Logger(label: "test") { _ in Lines(said: said) }) { store in
            for _ in 0..<500 { await #expect(throws: Status.self) { try await store.put("k", "v") } }
        }
        let seconds = (ContinuousClock.now - began).components.seconds
        let lines = said.lines.withLock { $0.count { $0 == "the audit trail cannot be written" } }
        #expect((1...Int(seconds) + 2).contains(lines))
    }
}

struct Unexpected: Error {}
