import NIOCore
package import NIOPosix
import ReplicaService
import Synchronization

/// The event loop of the connections among members, which the replica shares (`TurnLoop`): what a member says is heard in the same round of the
/// loop, and what is said to it goes out with the next, without another thread's being woken.
///
/// An event loop goes on with tasks as long as new ones come, before it looks at its connections again; and those of busy clients may come without
/// end. So a second turn in the same round is put off, until the connections have had theirs.
package final class PeerLoop: TurnLoop {
    package let group: MultiThreadedEventLoopGroup
    private let loop: any EventLoop
    // Counted on the loop only.
    private let rounds: Rounds
    private let lastTurn = Atomic<UInt64>(.max)
    /// About as long as the turn that it follows.
    private static let putOff = TimeAmount.microseconds(50)

    private final class Rounds: NIOEventLoopMetricsDelegate {
        let count = Atomic<UInt64>(0)
        func processedTick(info: NIOEventLoopTickInfo) { count.store(count.load(ordering: .relaxed) &+ 1, ordering: .relaxed) }
    }

    package init() {
        rounds = Rounds()
        group = MultiThreadedEventLoopGroup(numberOfThreads: 1, metricsDelegate: rounds)
        loop = group.next()
    }

    package func schedule(_ turn: @escaping @Sendable () -> Bool) { loop.execute { self.run(turn) } }
    package func schedule(afterMilliseconds milliseconds: Int64, _ turn: @escaping @Sendable () -> Bool) {
        loop.scheduleTask(in: .milliseconds(milliseconds)) { self.run(turn) }
    }

    private func run(_ turn: @escaping @Sendable () -> Bool) {
        let round = rounds.count.load(ordering: .relaxed)
        guard lastTurn.load(ordering: .relaxed) != round else {
            loop.scheduleTask(in: Self.putOff) { self.run(turn) }
            return
        }
        if turn() { lastTurn.store(round, ordering: .relaxed) }
    }

    package func shutDown() async { try? await group.shutdownGracefully() }
}
