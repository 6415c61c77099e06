import Basics
import Raft

/// What all members together have promised so far, and whether a step breaks it. Every check costs in proportion to what the
/// step changed, not to the length of the logs: a chained hash stands for a log's whole beginning.
struct RaftChecker {
    /// The entries of one term, as its leader made them.
    private struct TermLog {
        var leader: Int?
        var first: LogIndex = 0
        var chains: [UInt64] = []
    }
    private var terms: [TermLog] = []
    /// What is committed, by whomever first.
    private(set) var committed = LinkedLog()
    /// The commit index known somewhere when each read began, by context.
    private var readsBegun: [LogIndex] = []
    private(set) var readsAnswered = 0
    private(set) var elections = 0
    private(set) var violation: Violation?

    mutating func fail(_ promise: Violation.Promise, _ detail: String) {
        if violation == nil { violation = Violation(promise, detail) }
    }

    private mutating func withTerm(_ term: Term, _ body: (inout TermLog) -> Void) {
        while LogIndex(terms.count) <= term { terms.append(TermLog()) }
        body(&terms[Int(term)])
    }
    func leader(of term: Term) -> Int? { term < Term(terms.count) ? terms[Int(term)].leader : nil }

    // MARK: - Logs

    /// A member was elected. `log` is its log before its own first entry.
    mutating func elected(_ member: Int, term: Term, log: LinkedLog) {
        if let other = leader(of: term), other != member {
            return fail(.electionSafety, "members \(other + 1) and \(member + 1) both lead term \(term)")
        }
        guard leader(of: term) == nil else { return }
        let isNewest = terms.lastIndex { $0.leader != nil }.map { Term($0) < term } ?? true
        withTerm(term) { $0.leader = member }
        elections += 1
        // A candidate whose votes were delayed may win after a later term committed more; only the newest leader holds all.
        if isNewest, log.chain(at: committed.last) != committed.chain(at: committed.last) {
            fail(.leaderCompleteness, "member \(member + 1) leads term \(term) without the committed entry \(committed.last)")
        }
    }

    /// A member holds `link` at `index`: the same that the leader of its term made there, after the same beginning.
    mutating func holds(_ link: Link, at index: LogIndex, member: Int) {
        var known: UInt64?
        var isMaker = false
        withTerm(link.term) { term in
            if term.chains.isEmpty, term.leader == member { term.first = index }
            if index >= term.first, index - term.first < LogIndex(term.chains.count) {
                known = term.chains[Int(index - term.first)]
            } else if term.leader == member, index == term.first + LogIndex(term.chains.count) {
                term.chains.append(link.chain)
                isMaker = true
            }
        }
        if isMaker || known == link.chain { return }
        fail(.logMatching, known == nil ? "member \(member + 1) holds entry \(link.term).\(index), which its leader never made"
             : "member \(member + 1) holds another entry \(link.term).\(index), or another beginning before it")
    }

    // MARK: - Commitment

    /// Whether entries up to `index` are news. `log`: the member's own. `isDurable` says which members' disks hold a link.
    mutating func commits(_ index: LogIndex, member: Int, log: LinkedLog, quorum: (LogIndex, UInt64) -> Bool) {
        guard index <= log.last else { return fail(.stateMachineSafety, "member \(member + 1) commits entry \(index), which it does not have") }
        let shared = min(index, committed.last)
        guard log.chain(at: shared) == committed.chain(at: shared) else {
            return fail(.stateMachineSafety, "member \(member + 1) commits another entry at \(shared) or before")
        }
        guard index > committed.last else { return }
        if !quorum(index, log.chain(at: index)) { fail(.durableQuorum, "member \(member + 1) commits entry \(index) without a durable quorum") }
        for next in committed.last + 1...index { if let link = log[next] { committed.append(link) } }
    }

    /// A durable write replaces what a disk held from `first` on.
    mutating func replaces(from first: LogIndex, on disk: LinkedLog, with link: Link, member: Int) {
        guard first <= committed.last, let held = disk[first], held.chain == committed.chain(at: first), held != link else { return }
        fail(.leaderCompleteness, "the disk of member \(member + 1) loses the committed entry \(first)")
    }

    // MARK: - Reads

    mutating func readBegins() -> Raft.ReadContext {
        readsBegun.append(committed.last)
        return UInt64(readsBegun.count - 1)
    }
    mutating func readable(_ context: Raft.ReadContext, at index: LogIndex, member: Int) {
        readsAnswered += 1
        guard context < UInt64(readsBegun.count) else { return fail(.linearizableRead, "member \(member + 1) answers a read nobody asked") }
        if index < readsBegun[Int(context)] {
            fail(.linearizableRead, "member \(member + 1) reads at \(index), though \(readsBegun[Int(context)]) was committed before")
        }
    }

    // MARK: - Members

    mutating func moves(from old: HardState, to new: HardState, member: Int, where place: StaticString) {
        if new.term < old.term || (new.term == old.term && old.vote != nil && new.vote != old.vote) {
            fail(.monotonicState, "member \(member + 1) goes from term \(old.term), vote \(name(old.vote)) to term \(new.term), "
                 + "vote \(name(new.vote)) \(place)")
        }
        if new.commit < old.commit { fail(.monotonicState, "member \(member + 1) takes back its commit index \(old.commit) \(place)") }
    }
    private func name(_ vote: MemberID?) -> String { vote.map { "\($0.rawValue)" } ?? "none" }

    /// Whatever a message says must be durable at its sender by now.
    mutating func sends(_ message: Message, state: HardState, disk: LinkedLog, log: LinkedLog, memoryTerm: Term, member: Int) {
        var isDurable: Bool
        switch message.body {
        case .voteRequest: isDurable = state.term > message.term || (state.term == message.term && state.vote == message.from)
        case .voteResponse(granted: true): isDurable = state.term > message.term || (state.term == message.term && state.vote == message.to)
        case .voteResponse(granted: false), .append, .appendRejected: isDurable = state.term >= message.term
        case .appended(let through):
            isDurable = state.term >= message.term
            // In a later term the log may have been replaced since, rightly; the answer counts in its own term only.
            if memoryTerm == message.term, disk.chain(at: through) != log.chain(at: through), log.last >= through { isDurable = false }
        default: isDurable = true
        }
        if !isDurable { fail(.durableBeforeSent, "member \(member + 1) sends \(RaftView.describe(message)) too early") }
    }
}
