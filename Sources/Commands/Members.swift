package import ArgumentParser
import Basics
import EtcdClient
import EtcdProtocol

// Members of the cluster, and their etcd ports.

package struct Members: AsyncParsableCommand {
    package static let configuration = CommandConfiguration(
        abstract: "Look at the members of the cluster, and change them.",
        subcommands: [MembersList.self, MembersAdd.self, MembersRemove.self, MembersPromote.self, MembersUpdate.self])
    package init() {}
}

extension MemberMessage {
    fileprivate var row: [String] {
        [hexadecimal(id), name.isEmpty ? "unstarted" : "started", name, peerURLs.joined(separator: ","), clientURLs.joined(separator: ","), String(isLearner)]
    }
}
private func hexadecimal(_ id: UInt64) -> String { String(id, radix: 16) }
private func identifier(_ text: String) throws -> UInt64 {
    guard let id = UInt64(text, radix: 16), id != 0 else { throw CommandError("'\(text)' is no member id: hexadecimal digits, as members list shows them, are") }
    return id
}

package struct MembersList: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "list", abstract: "Show the members.")
    @OptionGroup var endpoint: EndpointOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        let members = try await endpoint.askAny(invocation.environment) { try await $0.members(linearizable: true).members }
        endpoint.print(["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"], members.map(\.row), in: invocation)
    }
}

package struct MembersAdd: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        commandName: "add", abstract: "Let a member in; start it afterwards with what is printed.",
        discussion: "With --learner it replicates and does not vote until it is promoted: the cluster's quorum does not depend on it meanwhile.")
    @Argument(help: "The member's name, as its certificate and its --name have it.") var name: String
    @Option(help: "Where the others will reach it: https://host:port, joined by commas.") var peerUrls: String
    @Flag(help: "As a learner.") var learner = false
    @OptionGroup var endpoint: EndpointOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        let urls = peerUrls.split(separator: ",").map(String.init)
        let (name, learner) = (name, learner)
        let answer = try await endpoint.askAny(invocation.environment) { try await $0.addMember(peerURLs: urls, isLearner: learner) }
        let id = answer.member?.id ?? 0
        invocation.print("Member \(hexadecimal(id)) added to cluster \(hexadecimal(answer.header?.clusterID ?? 0))")
        let others = answer.members.filter { $0.id != id && !$0.name.isEmpty }.flatMap { member in member.peerURLs.map { "\(member.name)=\($0)" } }
        let initial = (others + urls.map { "\(name)=\($0)" }).joined(separator: ",")
        invocation.print(TableText.printable(
            "\ncofferd --name \(name) --initial-cluster-state existing --initial-cluster \(initial) --initial-advertise-peer-urls \(urls.joined(separator: ","))"))
    }
}

package struct MembersRemove: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "remove", abstract: "Remove a member for good.")
    @Argument(help: "Its id.") var id: String
    @OptionGroup var endpoint: EndpointOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        let id = try identifier(id)
        let answer = try await endpoint.askAny(invocation.environment) { try await $0.removeMember(id) }
        invocation.print("Member \(hexadecimal(id)) removed from cluster \(hexadecimal(answer.header?.clusterID ?? 0))")
    }
}

package struct MembersPromote: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "promote", abstract: "Let a learner that has caught up vote.")
    @Argument(help: "Its id.") var id: String
    @OptionGroup var endpoint: EndpointOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        let id = try identifier(id)
        let answer = try await endpoint.askAny(invocation.environment) { try await $0.promoteMember(id) }
        invocation.print("Member \(hexadecimal(id)) promoted in cluster \(hexadecimal(answer.header?.clusterID ?? 0))")
    }
}

package struct MembersUpdate: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "update", abstract: "Tell the cluster of a member's new peer addresses.")
    @Argument(help: "Its id.") var id: String
    @Option(help: "Where the others reach it now: https://host:port, joined by commas.") var peerUrls: String
    @OptionGroup var endpoint: EndpointOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        let id = try identifier(id), urls = peerUrls.split(separator: ",").map(String.init)
        let answer = try await endpoint.askAny(invocation.environment) { try await $0.updateMember(id, peerURLs: urls) }
        invocation.print("Member \(hexadecimal(id)) updated in cluster \(hexadecimal(answer.header?.clusterID ?? 0))")
    }
}

package struct MoveLeader: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "move-leader", abstract: "Hand leadership to another member.")
    @Argument(help: "The id of the member that is to lead.") var id: String
    @OptionGroup var endpoint: EndpointOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        let id = try identifier(id)
        for address in try endpoint.addresses(invocation.environment) {
            guard let status = try? await endpoint.ask(address, { try await $0.status() }), status.leader == status.header?.memberID, status.leader != 0 else { continue }
            try await endpoint.ask(address) { try await $0.moveLeader(to: id) }
            return invocation.print("Leadership transferred from \(hexadecimal(status.leader)) to \(hexadecimal(id))")
        }
        throw CommandError("no leader endpoint found at \(try endpoint.addresses(invocation.environment).map(\.text).joined(separator: ","))")
    }
}

package struct EndpointVerb: AsyncParsableCommand {
    package static let configuration = CommandConfiguration(
        commandName: "endpoint", abstract: "Ask each member how it is.", subcommands: [EndpointStatus.self, EndpointHealth.self])
    package init() {}
}

/// The endpoints to ask: those given or, with `--cluster`, those of all members.
private func endpoints(_ options: EndpointOptions, all: Bool, _ invocation: Invocation) async throws -> [Endpoint] {
    guard all else { return try options.addresses(invocation.environment) }
    let members = try await options.askAny(invocation.environment) { try await $0.members(linearizable: false).members }
    return try members.flatMap(\.clientURLs).map { try Endpoint($0) }
}

package struct EndpointStatus: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "status", abstract: "Show leader, term, indexes and alarms as each member sees them.")
    @Flag(name: .customLong("members"), help: "Ask all members of the cluster.") var all = false
    @OptionGroup var endpoint: EndpointOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        var rows: [[String]] = [], failed = false
        for address in try await endpoints(endpoint, all: all, invocation) {
            do {
                let status = try await endpoint.ask(address) { try await $0.status() }
                let id = status.header?.memberID ?? 0
                rows.append([
                    address.text, hexadecimal(id), status.version, Self.size(status.databaseBytes), String(status.leader == id && id != 0), String(status.isLearner),
                    String(status.raftTerm), String(status.raftIndex), String(status.raftAppliedIndex), status.errors.joined(separator: ", "),
                ])
            } catch {
                failed = true
                invocation.note("Failed to get the status of endpoint \(address.text) (\(error))")
            }
        }
        endpoint.print(
            ["ENDPOINT", "ID", "VERSION", "DB SIZE", "IS LEADER", "IS LEARNER", "RAFT TERM", "RAFT INDEX", "RAFT APPLIED INDEX", "ERRORS"], rows, in: invocation)
        if failed { throw AlreadyReported() }
    }
    static func size(_ bytes: Int64) -> String {
        var value = Double(bytes), unit = 0
        let units = ["B", "kB", "MB", "GB", "TB"]
        while value >= 1000, unit < units.count - 1 { value /= 1000; unit += 1 }
        return unit == 0 ? "\(bytes) B" : value < 10 ? "\((value * 10).rounded() / 10) \(units[unit])" : "\(Int(value.rounded())) \(units[unit])"
    }
}

package struct EndpointHealth: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "health", abstract: "Ask each member for a linearizable read, and for alarms.")
    @Flag(name: .customLong("members"), help: "Ask all members of the cluster.") var all = false
    @OptionGroup var endpoint: EndpointOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        var rows: [[String]] = [], failed = false
        for address in try await endpoints(endpoint, all: all, invocation) {
            let clock = ContinuousClock(), begin = clock.now
            var problem = ""
            do {
                let alarms = try await endpoint.ask(address) { client in
                    _ = try await client.range(RangeRequestMessage(key: Bytes("health".utf8)))
                    return try await client.alarm(.get).alarms
                }
                if !alarms.isEmpty {
                    problem = "Active Alarm(s): " + alarms.map { $0.alarm == 1 ? "NOSPACE" : "CORRUPT" }.joined(separator: ", ")
                }
            } catch { problem = "\(error)" }
            failed = failed || !problem.isEmpty
            let (seconds, attoseconds) = begin.duration(to: clock.now).components
            rows.append([address.text, String(problem.isEmpty), "\(seconds * 1000 + attoseconds / 1_000_000_000_000_000)ms", problem])
        }
        endpoint.print(["ENDPOINT", "HEALTH", "TOOK", "ERROR"], rows, in: invocation)
        if failed { throw AlreadyReported() }
    }
}
