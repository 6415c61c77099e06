import CLinux
import Foundation
import Mounts
package import NodeProtocol

/// What a round came to, for whoever talks to the server.
package struct AgentOutput: Sendable {
    package var reconciliation: Reconciliation
    package var revision: Int64
    /// The stream must be left, for this reason.
    package var refusal: String?
}

/// The one thread that owns the reconciler: mount calls and writes block, so they are on no event loop and in no task pool.
///
/// In: messages of the stream, the end of the stream, questions. Out: one `AgentOutput` per round. Messages that wait
/// together are taken together and worked off in one round.
package final class AgentLoop: Sendable {
    private enum Work {
        case message(SyncMessage)
        case disconnected
        case question((NodeReconciler) -> Void)
    }
    private struct Inbox: Sendable {
        nonisolated(unsafe) var work: [Work] = []
        var isStopping = false
        var isStopped = false
    }
    private final class Mailbox: @unchecked Sendable {
        let condition = NSCondition()
        var inbox = Inbox()
    }
    private let mailbox = Mailbox()
    /// The mount table is looked at so often at least: what somebody unmounted is made again.
    private static let lookMilliseconds: Int64 = 10_000
    /// Messages that may wait: beyond it the stream's reader waits too.
    private static let messagesWaitingMax = 64
    package let outputs: AsyncStream<AgentOutput>
    private let continuation: AsyncStream<AgentOutput>.Continuation

    package init() {
        (outputs, continuation) = AsyncStream.makeStream(of: AgentOutput.self, bufferingPolicy: .bufferingNewest(1_024))
    }

    /// Makes the reconciler on the new thread and works until `stop`. Throws what making it throws.
    package func start(_ make: @escaping @Sendable () throws -> NodeReconciler) async throws {
        try await withCheckedThrowingContinuation { (started: CheckedContinuation<Void, any Error>) in
            let thread = Thread { [self] in
                do {
                    let reconciler = try make()
                    started.resume()
                    run(reconciler)
                } catch {
                    started.resume(throwing: error)
                }
                continuation.finish()
                mailbox.condition.withLock {
                    mailbox.inbox.isStopped = true
                    mailbox.condition.broadcast()
                }
            }
            thread.name = "coffer-agent mounts"
            thread.stackSize = 4 << 20
            thread.start()
        }
    }

    private func run(_ reconciler: NodeReconciler) {
        // What a record alone says must go, goes before the server is heard.
        var wake = round(reconciler, [])
        while true {
            let work = waitForWork(until: wake)
            guard let work else { return }
            wake = round(reconciler, work)
        }
    }

    private func waitForWork(until wake: Int64?) -> [Work]? {
        mailbox.condition.withLock {
            while unsafe mailbox.inbox.work.isEmpty, !mailbox.inbox.isStopping {
                guard let wake else {
                    mailbox.condition.wait()
                    continue
                }
                let pause = wake - clinux_boot_milliseconds()
                if pause <= 0 || !mailbox.condition.wait(until: Date(timeIntervalSinceNow: Double(min(pause, 60_000)) / 1_000)) { break }
            }
            if mailbox.inbox.isStopping { return nil }
            let work = unsafe mailbox.inbox.work
            unsafe mailbox.inbox.work = []
            mailbox.condition.broadcast()
            return work
        }
    }

    /// One round: take what came, plan, act, tell. Answers when to wake by itself.
    private func round(_ reconciler: NodeReconciler, _ work: [Work]) -> Int64? {
        var refusal: String?
        do {
            for item in work {
                switch item {
                case .message(let message):
                    if case .refused(let reason) = try reconciler.receive(message) { refusal = reason }
                case .disconnected: reconciler.disconnect()
                case .question(let answer): answer(reconciler)
                }
            }
            let result = try reconciler.reconcile()
            continuation.yield(AgentOutput(reconciliation: result, revision: reconciler.revision, refusal: refusal))
            return result.wakeMilliseconds
        } catch {
            // Observing failed (the mount table, our directories): nothing was decided on half a view.
            var result = Reconciliation()
            result.failures = ["\(error)"]
            continuation.yield(AgentOutput(reconciliation: result, revision: reconciler.revision, refusal: refusal))
            return clinux_boot_milliseconds() + 1_000
        }
    }

    private func submit(_ work: Work) {
        mailbox.condition.withLock {
            unsafe mailbox.inbox.work.append(work)
            mailbox.condition.broadcast()
        }
    }

    /// False while so much waits that the caller should pause.
    package func submit(_ message: SyncMessage) -> Bool {
        mailbox.condition.withLock {
            unsafe mailbox.inbox.work.append(.message(message))
            mailbox.condition.broadcast()
            return unsafe mailbox.inbox.work.count < Self.messagesWaitingMax
        }
    }
    package func disconnected() { submit(.disconnected) }

    /// Asks on the loop's thread.
    package func ask<Answer: Sendable>(_ question: @escaping @Sendable (NodeReconciler) throws -> Answer) async throws -> Answer {
        try await withCheckedThrowingContinuation { (answered: CheckedContinuation<Answer, any Error>) in
            let isStopped = mailbox.condition.withLock { mailbox.inbox.isStopped || mailbox.inbox.isStopping }
            guard !isStopped else { return answered.resume(throwing: CancellationError()) }
            submit(.question { reconciler in answered.resume(with: Result { try question(reconciler) }) })
        }
    }

    /// Ends the thread between two rounds. Mounts stay.
    package func stop() {
        mailbox.condition.withLock {
            mailbox.inbox.isStopping = true
            mailbox.condition.broadcast()
        }
    }
}
