import EtcdClient
import EtcdProtocol
import Faults
import NIOCore

/// Changes of the cluster under load.
extension Tormentor {
    /// Asks members in turn until one answers.
    private func ask<Answer: Sendable>(_ question: (EtcdClient) async throws -> Answer) async throws -> Answer {
        var last: any Error = FaultFailure("there are no members")
        for number in servers.present {
            do {
                let client = try await servers.client(number, timeout: .seconds(3))
                do {
                    let answer = try await question(client)
                    await client.close()
                    return answer
                } catch {
                    await client.close()
                    throw error
                }
            } catch { last = error }
        }
        throw last
    }
    private func member(_ number: Int) async throws -> MemberMessage? {
        try await ask { try await $0.members(linearizable: true) }.members.first { $0.peerURLs == [servers.peerURL(number)] }
    }
    private func again(_ what: String, _ step: () async throws -> Bool) async throws {
        var reason = ""
        try await eventually("\(what): \(reason)", withinSeconds: 90) {
            do {
                if try await step() { return true }
            } catch { reason = "\(error)" }
            try await Task.sleep(for: .milliseconds(50))
            return false
        }
    }

    /// 1. A learner is added in an empty place, and started.
    /// 2. It is promoted when it has caught up.
    /// 3. One of the others is removed; for a while its process goes on as it likes, then it and its data are gone.
    mutating func changeMembership(until isOver: @Sendable () -> Bool) async throws {
        let present = servers.present
        guard let place = servers.members.indices.first(where: { !present.contains($0) }), servers.take(place, evenIfEmpty: true) else { return }
        defer { servers.release(place) }
        let name = servers.members[place].name
        try await again("\(name) is added") { // (1)
            if try await member(place) != nil { return true }
            return try await ask { try await $0.addMember(peerURLs: [servers.peerURL(place)], isLearner: true) }.member != nil
        }
        servers.join(place)
        try servers.start(place)
        try await again("\(name) is promoted") { // (2)
            if servers.process(place)?.isRunning != true {
                tally.note("\(name) ended while it learned: \(servers.log(place).suffix(400))")
                try servers.start(place)
            }
            guard let member = try await member(place) else { throw FaultFailure("it is no member") }
            if !member.isLearner { return true }
            _ = try await ask { try await $0.promoteMember(member.id) }
            return true
        }
        await pause(0...1)
        guard let leaving = present.randomElement(using: &generator) else { return }
        try await again("\(servers.members[leaving].name) can be removed") { servers.take(leaving) }
        defer { servers.release(leaving) }
        guard let id = try await id(of: leaving) else { throw FaultFailure("\(servers.members[leaving].name) is no member") }
        try await again("\(servers.members[leaving].name) is removed") { // (3)
            if try await !ask({ try await $0.members(linearizable: true) }).members.contains(where: { $0.id == id }) { return true }
            _ = try await ask { try await $0.removeMember(id) }
            return true
        }
        await pause(0...1.5)
        try await servers.leave(leaving)
    }

    private func id(of number: Int) async throws -> UInt64? {
        var found: UInt64?
        try await again("the members are listed") {
            found = try await member(number)?.id
            return true
        }
        return found
    }

    mutating func moveLeader() async {
        guard let leader = await servers.leader(), let target = servers.present.filter({ $0 != leader }).randomElement(using: &generator) else { return }
        guard let client = try? await servers.client(leader, timeout: .seconds(3)) else { return }
        if let id = try? await member(target)?.id { try? await client.moveLeader(to: id) }
        await client.close()
    }
}
