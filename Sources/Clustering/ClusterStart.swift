import Barrier
import Basics
import Foundation
import Logging
import MVCC
import NIOCore
import Peers
import ReplicaService

/// How a member of a cluster comes up.
///
/// 1. It listens for its peers, so that those who start with it can ask it.
/// 2. A data directory that is a member's already is opened as it is; flags about the beginning are passed over. One of a store that was alone
///    becomes the first member of a cluster, which then grows from it.
/// 3. New: the ids follow from the flags. The member with the least id makes the seal file; the others ask for it, until they get it.
///    Whoever finds that this very member took part before, and lost its directory, does not start: it may have voted.
/// 4. Existing: the members there are tell who this one is (by its peer URLs), and give it the seal file.
///
/// Invariant: a member's directory is laid down with its id before its first message is sent.
struct ClusterStart {
    let settings: MemberSettings
    let transport: PeerTransport
    let eventLoop: any EventLoop
    let logger: Logger

    struct Outcome {
        /// `nil`: the directory is one already.
        var founding: NewMember?
        var opening: ClusterOpening
        var cluster: UInt64
        var member: MemberID
        var peerURLs: [String]
    }

    private var name: String { settings.name }
    private var dataDir: String { settings.dataDir }
    private static let askAgainMilliseconds = 200
    private static let sayAgainSeconds: Double = 5

    /// Steps 2 to 4.
    func settle() async throws -> Outcome {
        let advertised = settings.advertised?.map(\.description)
        if let occupant = try DataDirectory.occupant(of: dataDir) { return try restart(occupant, advertised) } // (2)
        guard !settings.forceNewCluster else { throw ClusterStartFailure("--force-new-cluster: \(dataDir) holds no member's data") }
        guard let initial = settings.initial else { throw ClusterStartFailure("--initial-cluster is missing, and \(dataDir) is no member's yet") }
        guard let me = initial[name] else {
            throw ClusterStartFailure("--name \(name) is not in --initial-cluster, which has \(initial.members.map(\.name).sorted().joined(separator: ", "))")
        }
        let urls = advertised ?? me.peerURLs
        guard Set(urls) == Set(me.peerURLs) else {
            throw ClusterStartFailure("--initial-cluster has \(name)=\(me.peerURLs.joined(separator: ",")), --initial-advertise-peer-urls \(urls.joined(separator: ","))")
        }
        switch settings.beginning {
        case .new: return try await found(initial, me)
        case .existing: return try await join(initial, me)
        }
    }

    private func restart(_ occupant: DataDirectory.Occupant, _ advertised: [String]?) throws -> Outcome {
        guard let cluster = occupant.cluster, let owner = occupant.name else { return try adopt(occupant, advertised) }
        guard owner == name else { throw ClusterStartFailure("\(dataDir) belongs to member '\(owner)' of cluster \(String(cluster, radix: 16)); --name says '\(name)'") }
        let initial = settings.initial
        if let initial, settings.beginning == .new, initial[name]?.id == occupant.member, initial.clusterID != cluster {
            throw ClusterStartFailure(
                "\(dataDir) belongs to cluster \(String(cluster, radix: 16)), --initial-cluster and its token describe cluster \(String(initial.clusterID, radix: 16))")
        }
        let urls = advertised ?? initial?[name]?.peerURLs ?? []
        var opening = ClusterOpening.join
        if settings.forceNewCluster {
            opening = .forceNew(ClusterMember(id: occupant.member, name: name, peerURLs: urls))
        } else if occupant.isFirst, !urls.isEmpty {
            opening = .bootstrap([ClusterMember(id: occupant.member, name: name, peerURLs: urls)])
        } else if let initial, initial.clusterID == cluster {
            opening = .bootstrap(Self.founders(initial)) // stopped before the cluster was founded; passed over otherwise
        }
        return Outcome(founding: nil, opening: opening, cluster: cluster, member: occupant.member, peerURLs: urls)
    }

    private func adopt(_ occupant: DataDirectory.Occupant, _ advertised: [String]?) throws -> Outcome {
        guard let initial = settings.initial, initial.members.map(\.name) == [name], !settings.forceNewCluster else {
            throw ClusterStartFailure(
                "\(dataDir) is of a store that was started alone. It can be the first member of a cluster: start it with an --initial-cluster that names nobody else, "
                    + "let the others in (members add), and start those with --initial-cluster-state existing")
        }
        let urls = advertised ?? initial.members[0].peerURLs, cluster = NewMember.cluster(of: occupant.keyring)
        var adoption = NewMember(cluster: cluster, name: name, member: occupant.member, sealFile: nil)
        adoption.adopts = true
        let founder = ClusterMember(id: occupant.member, name: name, peerURLs: urls)
        return Outcome(founding: adoption, opening: .bootstrap([founder]), cluster: cluster, member: occupant.member, peerURLs: urls)
    }

    // MARK: (3)

    private func found(_ initial: InitialCluster, _ me: InitialCluster.Member) async throws -> Outcome {
        let others = initial.members.filter { $0.id != me.id }
        for facts in await facts(of: others.flatMap(\.peerURLs)) {
            if let known = facts.members.first(where: { $0.id == me.id }), known.tookPart {
                throw lostDirectory(of: facts.cluster)
            }
            guard me.id != initial.members[0].id else {
                throw ClusterStartFailure("cluster \(String(facts.cluster, radix: 16)) runs already: this member would make a seal file of its own")
            }
        }
        var new = NewMember(cluster: initial.clusterID, name: name, member: me.id, sealFile: nil)
        if me.id != initial.members[0].id {
            new.sealFile = try await sealFile(from: others.map { ($0.name, $0.peerURLs) }, bootstrap: initial.fingerprint, cluster: initial.clusterID)
        }
        return Outcome(founding: new, opening: .bootstrap(Self.founders(initial)), cluster: initial.clusterID, member: me.id, peerURLs: me.peerURLs)
    }

    private func lostDirectory(of cluster: UInt64) -> ClusterStartFailure {
        ClusterStartFailure(
            "member '\(name)' took part in cluster \(String(cluster, radix: 16)) before, and \(dataDir) is empty: "
                + "remove it (members remove), add it again (members add), and start it with --initial-cluster-state existing")
    }

    private static func founders(_ initial: InitialCluster) -> [ClusterMember] {
        initial.members.map { ClusterMember(id: $0.id, name: $0.name, peerURLs: $0.peerURLs) }
    }

    /// Whoever answers at once, once each.
    private func facts(of urls: [String]) async -> [PeerFacts] {
        await withTaskGroup(of: PeerFacts?.self) { tasks in
            for text in urls {
                guard let url = try? PeerURL(text) else { continue }
                tasks.addTask { [transport, eventLoop] in
                    guard let (answer, _) = try? await transport.ask(.facts, of: url, on: eventLoop) else { return nil }
                    return try? PeerFacts(decoding: answer)
                }
            }
            return await tasks.reduce(into: []) { found, facts in if let facts { found.append(facts) } }
        }
    }

    /// Of whoever first answers that it is not behind.
    private func currentFacts(of urls: [String]) async -> PeerFacts? {
        let (answers, asked) = AsyncStream.makeStream(of: PeerFacts?.self)
        let urls = urls.compactMap { text in try? PeerURL(text) }
        for url in urls {
            Task { [transport, eventLoop] in
                let answer = try? await transport.ask(.currentFacts, of: url, on: eventLoop).answer
                asked.yield(answer.flatMap { bytes in try? PeerFacts(decoding: bytes) })
            }
        }
        for await answer in answers.prefix(urls.count) { if let answer { return answer } }
        return nil
    }

    /// There may be no leader without this member: of two, each is in every quorum. What all say who answer is not behind, if the silent ones are
    /// too few to have changed the members among themselves. (This one has taken part in nothing yet.)
    private func agreed(_ answers: [PeerFacts], on me: InitialCluster.Member) -> PeerFacts? {
        func mine(_ facts: PeerFacts) -> PeerFacts.Member? { facts.members.first { Set($0.peerURLs) == Set(me.peerURLs) } }
        guard let first = answers.first, let known = mine(first) else { return nil }
        let isAgreed = answers.allSatisfy { facts in
            let voters = facts.members.filter { !$0.isLearner }.map(\.id)
            let silent = voters.count { voter in voter != known.id && !answers.contains { $0.member == voter } }
            return mine(facts)?.id == known.id && mine(facts)?.tookPart == false && silent <= voters.count / 2
        }
        return isAgreed ? first : nil
    }

    private func sealFile(from members: [(name: String, urls: [String])], bootstrap: Bytes, cluster: UInt64) async throws -> Bytes {
        var said = Date.distantPast
        while true {
            var reasons: [String] = []
            for member in members {
                for text in member.urls {
                    guard let url = try? PeerURL(text) else { continue }
                    do { return try await transport.ask(.sealFile(bootstrap: bootstrap), of: url, on: eventLoop).answer } catch {
                        if let refused = error as? PeerRequestRefused, refused.description.hasPrefix(SeedResponder.mismatch) {
                            throw ClusterStartFailure("\(member.name) at \(text): \(refused)")
                        }
                        if let refused = error as? PeerRequestRefused, refused.description == SeedResponder.tookPart { throw lostDirectory(of: cluster) }
                        reasons.append("\(member.name): \(error)")
                    }
                }
            }
            if Date().timeIntervalSince(said) >= Self.sayAgainSeconds {
                said = Date()
                logger.notice("waiting for the cluster's seal file", metadata: ["asked": "\(reasons.joined(separator: "; "))"])
            }
            try await Task.sleep(for: .milliseconds(Self.askAgainMilliseconds))
        }
    }

    // MARK: (4)

    private func join(_ initial: InitialCluster, _ me: InitialCluster.Member) async throws -> Outcome {
        let others = initial.members.filter { $0.id != me.id }
        guard !others.isEmpty else { throw ClusterStartFailure("--initial-cluster names nobody but '\(name)': whom should it join?") }
        let deadline = Date().addingTimeInterval(30)
        var said = Date.distantPast
        while true {
            let answers = await facts(of: others.flatMap(\.peerURLs))
            guard Set(answers.map(\.cluster)).count <= 1 else { throw ClusterStartFailure("--initial-cluster names members of different clusters") }
            // Who is behind may still have, at this one's address, a member that was removed since.
            let current = answers.isEmpty ? nil : await currentFacts(of: others.flatMap(\.peerURLs)) ?? agreed(answers, on: me)
            if let facts = current, let known = facts.members.first(where: { Set($0.peerURLs) == Set(me.peerURLs) }) {
                guard !known.tookPart else {
                    throw ClusterStartFailure(
                        "member \(String(known.id.rawValue, radix: 16)) took part before, and \(dataDir) is empty: remove it (members remove) and add it again")
                }
                let seal = try await sealFile(from: facts.members.filter { $0.id != known.id }.map { ($0.name, $0.peerURLs) }, bootstrap: [], cluster: facts.cluster)
                let new = NewMember(cluster: facts.cluster, name: name, member: known.id, sealFile: seal)
                return Outcome(founding: new, opening: .join, cluster: facts.cluster, member: known.id, peerURLs: me.peerURLs)
            }
            let reason = answers.isEmpty ? "nobody of \(others.map(\.name).joined(separator: ", ")) answers"
                : current == nil ? "none of those who answer hears a leader"
                : "cluster \(String(answers[0].cluster, radix: 16)) has no member at \(me.peerURLs.joined(separator: ",")): members add lets it in first"
            guard Date() < deadline else { throw ClusterStartFailure(reason) }
            if Date().timeIntervalSince(said) >= Self.sayAgainSeconds {
                said = Date()
                logger.notice("not yet a member", metadata: ["reason": "\(reason)"])
            }
            try await Task.sleep(for: .milliseconds(Self.askAgainMilliseconds))
        }
    }
}
