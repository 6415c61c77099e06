import Basics
import EtcdClient
import EtcdProtocol
import RPC
import Testing

@Suite struct LeaseTests {
    @Test("a lease is granted, kept alive, looked at, listed and revoked with its keys")
    func lives() async throws {
        try await ServedStore.run { store in
            let granted = try await store.client.grantLease(seconds: 600)
            #expect(granted.id != 0 && granted.seconds == 600)
            try await store.put("a", "1", lease: granted.id)
            try await store.put("b", "2", lease: granted.id)
            #expect(try await store.client.keepLeaseAlive(granted.id).seconds == 600)
            let status = try await store.client.leaseTimeToLive(granted.id, keys: true)
            #expect(status.grantedSeconds == 600 && (590...600).contains(status.seconds) && status.keys.map(text) == ["a", "b"])
            #expect(try await store.client.leases().leases.map(\.id) == [granted.id])
            try await store.client.revokeLease(granted.id)
            #expect(try await store.list().count == 0)
            #expect(try await store.client.leases().leases.isEmpty)
        }
    }

    @Test("a lease that is not there is answered as etcd does")
    func misses() async throws {
        try await ServedStore.run { store in
            let kept = try await store.client.keepLeaseAlive(99), status = try await store.client.leaseTimeToLive(99)
            #expect(kept.seconds == 0 && status.seconds == -1)
            await #expect(throws: Status(.notFound, "etcdserver: requested lease not found")) { try await store.client.revokeLease(99) }
        }
    }

    @Test("a lease's number is the client's if it says one, and only once")
    func keepsIDs() async throws {
        try await ServedStore.run { store in
            let granted = try await store.client.grantLease(seconds: 60, id: 7)
            #expect(granted.id == 7)
            await #expect(throws: Status(.failedPrecondition, "etcdserver: lease already exists")) { try await store.client.grantLease(seconds: 60, id: 7) }
            await #expect(throws: Status(.outOfRange, "etcdserver: too large lease TTL")) { try await store.client.grantLease(seconds: Limits.leaseSecondsMax + 1) }
        }
    }

    @Test("a member tells of itself")
    func tellsStatus() async throws {
        try await ServedStore.run { store in
            let status = try await store.client.status()
            #expect(status.version == "3.7.0" && status.leader == 22 && status.raftAppliedIndex > 0 && status.raftTerm > 0)
            let members = try await store.client.members().members
            #expect(members.map(\.id) == [22] && members[0].name == "one" && members[0].clientURLs == ["http://127.0.0.1:2379"])
        }
    }
}
