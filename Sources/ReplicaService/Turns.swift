import Glibc
import Raft
import Replica
import Storage
import Synchronization

/// A thread that the replica's turns share with what brings other members' messages: these need not be handed from one thread to another then.
package protocol TurnLoop: Sendable {
    /// From any thread: runs `turn` soon, on the loop's thread. Between two turns that did something (answered true) the loop takes what has arrived.
    func schedule(_ turn: @escaping @Sendable () -> Bool)
    func schedule(afterMilliseconds milliseconds: Int64, _ turn: @escaping @Sendable () -> Bool)
}

// When turns happen: on a thread of the replica's own, which sleeps in between, or on a loop.
extension ReplicaThread {
    func run() {
        begin()
        while !hasEnded {
            let mail = shared.mailbox.wait(until: hub.canCatchUp ? 0 : UInt64(nextTick) * 1_000_000) { isWorkThere(in: &$0) ? $0.take() : nil }
            turn(mail ?? shared.mailbox.withLock { $0.take() })
        }
        end()
    }

    /// `ended` is called when the last turn is over.
    func run(on loop: any TurnLoop, ended: @escaping @Sendable () -> Void) {
        loop.schedule { [self] in
            begin()
            shared.mailbox.notifies { [self] in loop.schedule { self.step(on: loop, ended) } }
            scheduleTick(on: loop, ended)
            return step(on: loop, ended)
        }
    }

    /// A turn, if there is something to do; another is scheduled if there is again.
    private func step(on loop: any TurnLoop, _ ended: @escaping @Sendable () -> Void) -> Bool {
        guard !isOver else { return false }
        let isDue = hub.canCatchUp || monotonicMilliseconds() >= nextTick
        guard let mail = shared.mailbox.poll({ isWorkThere(in: &$0) || isDue ? $0.take() : nil }) else { return false }
        turn(mail)
        guard !hasEnded else {
            conclude()
            ended()
            return true
        }
        if wakesAt != nextTick { scheduleTick(on: loop, ended) }
        if hub.canCatchUp || shared.mailbox.poll({ isWorkThere(in: &$0) ? true : nil }) != nil { loop.schedule { self.step(on: loop, ended) } }
        return true
    }

    private func scheduleTick(on loop: any TurnLoop, _ ended: @escaping @Sendable () -> Void) {
        wakesAt = nextTick
        loop.schedule(afterMilliseconds: nextTick - now) { self.step(on: loop, ended) }
    }

    /// Ends without another turn. On the thread of the turns.
    func conclude() {
        guard !isOver else { return }
        isOver = true
        end()
    }

    private func begin() {
        shared.thread.store(UInt(pthread_self()), ordering: .relaxed)
        now = monotonicMilliseconds()
        nextTick = now + options.tickMilliseconds
        publishKeys()
        handle(.time(now))
        publishMembers()
        if replica.isClustered { publishStatus(hasBegun: true) } else { handle(.campaign) }
    }

    private func isWorkThere(in mailbox: inout Mailbox) -> Bool {
        let released = desk.takeReleased()
        mailbox.proposalsInFlight -= released.proposals
        mailbox.proposalBytesInFlight -= released.bytes
        // A write that nothing waits for here wakes nobody; a leader whom it concerns was told by the log's thread.
        mailbox.awaitsLog = replica.raft.awaitsStorage || ending != nil
        return !mailbox.mail.isEmpty(awaitingLog: mailbox.awaitsLog)
    }
}
