/// Who hears whom, and what happens to messages on their way. Members are numbered from 0.
struct Network: Sendable {
    private let count: Int
    /// `blocked[from * count + to]`.
    private var blocked: [Bool]
    private(set) var blockedCount = 0

    init(members count: Int) {
        self.count = count
        blocked = [Bool](repeating: false, count: count * count)
    }
    func carries(from: Int, to: Int) -> Bool { blockedCount == 0 || !blocked[from * count + to] }

    private mutating func block(from: Int, to: Int) {
        guard from != to, !blocked[from * count + to] else { return }
        blocked[from * count + to] = true
        blockedCount += 1
    }
    mutating func heal() {
        guard blockedCount > 0 else { return }
        for position in blocked.indices { blocked[position] = false }
        blockedCount = 0
    }
    mutating func mute(_ member: Int) { for other in 0..<count { block(from: member, to: other) } }
    mutating func deafen(_ member: Int) { for other in 0..<count { block(from: other, to: member) } }
    /// Members whose bit is set do not hear the others, nor these them.
    mutating func split(_ group: Int) {
        for from in 0..<count {
            for to in 0..<count where (group >> from) & 1 != (group >> to) & 1 { block(from: from, to: to) }
        }
    }
}
