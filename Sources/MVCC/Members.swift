package import Basics

/// A member of the cluster, as all members know it. Learners replicate and do not vote.
package struct ClusterMember: Hashable, Sendable {
    package var id: MemberID
    /// Empty until the member has started and said who it is.
    package var name: String
    /// Where the other members reach it.
    package var peerURLs: [String]
    /// Where clients reach it; empty until the member has started.
    package var clientURLs: [String]
    package var isLearner: Bool
    package init(id: MemberID, name: String = "", peerURLs: [String], clientURLs: [String] = [], isLearner: Bool = false) {
        self.id = id; self.name = name; self.peerURLs = peerURLs; self.clientURLs = clientURLs; self.isLearner = isLearner
    }
}

/// One step of a change of members; the steps of one command take effect together.
package enum MemberStep: Hashable, Sendable {
    /// As a voter or, if the record says so, as a learner.
    case add(ClusterMember)
    /// A learner becomes a voter.
    case promote(MemberID)
    /// A voter becomes a learner.
    case demote(MemberID)
    /// For good: its id is never used again.
    case remove(MemberID)
    package var member: MemberID {
        switch self {
        case .add(let member): member.id
        case .promote(let id), .demote(let id), .remove(let id): id
        }
    }
}

/// Changes of the table of members.
package enum MemberCommand: Hashable, Sendable {
    /// The members a cluster begins with; refused once there are any.
    case found([ClusterMember])
    /// Who belongs and who votes. Travels as a membership entry: consensus follows it when it is applied.
    case change([MemberStep])
    /// New peer URLs of a member.
    case update(MemberID, peerURLs: [String])
    /// What a started member says of itself.
    case publish(MemberID, name: String, clientURLs: [String])
    /// `--force-new-cluster`: this member alone is left, the others are removed.
    case reduce(to: MemberID)
}

/// Something all members must know of one: raised and cleared by commands, kept until cleared.
package struct Alarm: Hashable, Comparable, Sendable {
    package enum Kind: UInt8, Hashable, Sendable, CaseIterable {
        /// etcd's NOSPACE.
        case noSpace = 1
        /// etcd's CORRUPT: what it holds is not what the others hold. It is out of service.
        case corrupt
        /// It lost what it had acknowledged, replicates as a learner, and votes again once it has caught up.
        case repairing
    }
    package var member: MemberID
    package var kind: Kind
    package init(_ kind: Kind, of member: MemberID) { self.member = member; self.kind = kind }
    package static func < (a: Alarm, b: Alarm) -> Bool { (a.member, a.kind.rawValue) < (b.member, b.kind.rawValue) }
}

/// Who sent a forwarded command, and which of its commands it is: greater with each, and with each start of the member.
package struct Origin: Hashable, Sendable {
    package var member: MemberID
    /// Tells one run of the member from earlier ones.
    package var incarnation: UInt64
    package var sequence: UInt64
    package init(_ member: MemberID, incarnation: UInt64, sequence: UInt64) {
        self.member = member; self.incarnation = incarnation; self.sequence = sequence
    }
}

/// Why a change of members was refused. Nothing was changed.
package enum MemberRefusal: Error, Hashable, Sendable {
    case exists(MemberID), peerURLTaken(String)
    /// Also of ids that were removed: they are never used again.
    case notFound(MemberID), removed(MemberID)
    case notLearner(MemberID), alreadyLearner(MemberID)
    /// A learner that is too far behind to vote.
    case notInSync(MemberID)
    /// Another change is under way, or consensus does not admit this one; the reason.
    case notNow(String)
    /// Fewer voters would be at work than the new quorum needs.
    case losesQuorum
    case lastVoter
    case tooMany
    /// More learners than the cluster admits at a time.
    case tooManyLearners
}

/// Members, ids of former ones, alarms, and how far each member's forwarded commands have come. Lists are sorted by id.
package struct MemberTable: Hashable, Sendable {
    package private(set) var members: [ClusterMember] = []
    package private(set) var removed: [MemberID] = []
    package private(set) var alarms: [Alarm] = []
    private struct Forwarded: Hashable, Sendable { var last: Origin; var isDirty: Bool }
    private var forwarded: [Forwarded] = []
    /// Membership as consensus has it, in a form that only the Replica reads.
    package private(set) var consensus: Bytes?

    package init() {}

    package subscript(id: MemberID) -> ClusterMember? { members.first { $0.id == id } }
    package func hasAlarm(_ kind: Alarm.Kind, of member: MemberID) -> Bool { alarms.contains(Alarm(kind, of: member)) }

    // MARK: Forwarded commands

    /// True, once, for each origin that comes in order: whatever comes a second time, or after a later one, is refused.
    /// Whoever waits for a command that is refused without having been applied may send it again under a later number.
    /// Of a member that was removed nothing is admitted: how far it had come is forgotten, and a second one could not be told.
    mutating func admit(_ origin: Origin) -> Bool {
        guard !removed.contains(origin.member) else { return false }
        guard let position = forwarded.firstIndex(where: { $0.last.member == origin.member }) else {
            forwarded.append(Forwarded(last: origin, isDirty: true))
            forwarded.sort { $0.last.member < $1.last.member }
            return true
        }
        let last = forwarded[position].last
        guard (last.incarnation, last.sequence) < (origin.incarnation, origin.sequence) else { return false }
        forwarded[position] = Forwarded(last: origin, isDirty: true)
        return true
    }
    /// The last that was admitted of a member.
    package func lastForwarded(by member: MemberID) -> Origin? { forwarded.first { $0.last.member == member }?.last }

    mutating func writeForwarded(into tables: inout [TableWrite]) {
        for position in forwarded.indices where forwarded[position].isDirty {
            forwarded[position].isDirty = false
            tables.append(TableRow.write(forwarded[position].last))
        }
    }

    // MARK: Commands

    mutating func apply(_ command: MemberCommand, into tables: inout [TableWrite]) -> MemberRefusal? {
        switch command {
        case .found(let members):
            guard self.members.isEmpty else { return .exists(self.members[0].id) }
            return change(members.map { .add($0) }, &tables)
        case .change(let steps): return change(steps, &tables)
        case .update(let id, let peerURLs):
            guard var member = self[id] else { return .notFound(id) }
            if let taken = taken(peerURLs, except: id) { return .peerURLTaken(taken) }
            member.peerURLs = peerURLs
            put(member, &tables)
        case .publish(let id, let name, let clientURLs):
            guard var member = self[id] else { return .notFound(id) }
            (member.name, member.clientURLs) = (name, clientURLs)
            put(member, &tables)
        case .reduce(let id):
            guard var member = self[id] else { return .notFound(id) }
            for other in members where other.id != id { remove(other.id, &tables) }
            member.isLearner = false
            put(member, &tables)
        }
        return nil
    }

    /// Why the steps cannot be taken, or nothing.
    package func objection(to steps: [MemberStep]) -> MemberRefusal? {
        var copy = self, tables: [TableWrite] = []
        return copy.change(steps, &tables)
    }

    /// All steps or none.
    private mutating func change(_ steps: [MemberStep], _ tables: inout [TableWrite]) -> MemberRefusal? {
        let before = self, written = tables.count
        for step in steps {
            guard let refusal = take(step, &tables) else { continue }
            self = before
            tables.removeLast(tables.count - written)
            return refusal
        }
        guard members.contains(where: { !$0.isLearner }) else {
            self = before
            tables.removeLast(tables.count - written)
            return .lastVoter
        }
        return nil
    }

    private mutating func take(_ step: MemberStep, _ tables: inout [TableWrite]) -> MemberRefusal? {
        if removed.contains(step.member) { return .removed(step.member) }
        if case .add(let member) = step {
            if self[member.id] != nil || member.id.rawValue == 0 { return .exists(member.id) }
            if let taken = taken(member.peerURLs, except: member.id) { return .peerURLTaken(taken) }
            guard members.count < Limits.membersMax else { return .tooMany }
            put(member, &tables)
            return nil
        }
        guard var member = self[step.member] else { return .notFound(step.member) }
        switch step {
        case .promote where !member.isLearner: return .notLearner(member.id)
        case .demote where member.isLearner: return .alreadyLearner(member.id)
        case .remove: remove(member.id, &tables)
        default:
            member.isLearner.toggle()
            put(member, &tables)
            // A damaged one is well again when it votes again.
            guard case .promote = step else { break }
            for kind in [Alarm.Kind.repairing, .corrupt] where hasAlarm(kind, of: member.id) {
                set(Alarm(kind, of: member.id), isRaised: false, into: &tables)
            }
        }
        return nil
    }
    private func taken(_ peerURLs: [String], except id: MemberID) -> String? {
        peerURLs.first { url in members.contains { $0.id != id && $0.peerURLs.contains(url) } }
    }
    private mutating func put(_ member: ClusterMember, _ tables: inout [TableWrite]) {
        restore(member)
        tables.append(TableRow.write(member))
    }
    private mutating func remove(_ id: MemberID, _ tables: inout [TableWrite]) {
        members.removeAll { $0.id == id }
        restore(removed: id)
        tables.append(contentsOf: TableRow.writeRemoved(id))
        for alarm in alarms where alarm.member == id { tables.append(TableRow.write(alarm, isRaised: false)) }
        alarms.removeAll { $0.member == id }
        if forwarded.contains(where: { $0.last.member == id }) { tables.append(TableRow.removeForwarded(id)) }
        forwarded.removeAll { $0.last.member == id }
    }

    mutating func set(_ alarm: Alarm, isRaised: Bool, into tables: inout [TableWrite]) {
        alarms.removeAll { $0 == alarm }
        if isRaised { restore(alarm) }
        tables.append(TableRow.write(alarm, isRaised: isRaised))
    }
    mutating func set(consensus: Bytes, into tables: inout [TableWrite]) {
        self.consensus = consensus
        tables.append(TableRow.write(consensus: consensus))
    }

    // MARK: Restart

    private mutating func restore(_ member: ClusterMember) {
        members.removeAll { $0.id == member.id }
        members.append(member)
        members.sort { $0.id < $1.id }
    }
    private mutating func restore(removed id: MemberID) {
        guard !removed.contains(id) else { return }
        removed.append(id)
        removed.sort()
    }
    private mutating func restore(_ alarm: Alarm) {
        alarms.append(alarm)
        alarms.sort()
    }
    mutating func restore(key: Bytes, _ value: Bytes) throws(MalformedBytes) {
        switch try TableRow.member(key, value) {
        case .member(let member): restore(member)
        case .removed(let id): restore(removed: id)
        case .alarm(let alarm): restore(alarm)
        case .forwarded(let origin):
            forwarded.append(Forwarded(last: origin, isDirty: false))
            forwarded.sort { $0.last.member < $1.last.member }
        case .consensus(let bytes): consensus = bytes
        }
    }
}
