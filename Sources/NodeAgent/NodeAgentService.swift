import Basics
import Glibc
package import Logging
import Mounts
import NodeProtocol
import Synchronization

/// The agent as a whole: the loop that mounts, the stream that feeds it, and what it tells the server.
///
/// The stream is followed for as long as the process lives, through any server's end: after a failure it pauses, longer each
/// time and by chance, so that a thousand nodes do not come back in one moment. What the server was not told (acknowledgements,
/// conditions) waits for the next connection.
package struct NodeAgentService: Sendable {
    private let server: ServerOptions
    private let loop: AgentLoop
    private let logger: Logger
    private let outbox = Outbox()
    private static let nodeReportSeconds = 15
    private static let acknowledgementPauseMillisecondsMax = 5_000

    package init(server: ServerOptions, loop: AgentLoop, logger: Logger) { self.server = server; self.loop = loop; self.logger = logger }

    /// Ends when its task is cancelled.
    package func run() async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await collectOutputs() }
            group.addTask { try await followForever() }
            try await group.next()
            group.cancelAll()
        }
    }

    private func collectOutputs() async {
        var lastFailures: [String] = []
        for await output in loop.outputs {
            outbox.add(output)
            let failures = output.reconciliation.failures
            if failures != lastFailures {
                for failure in failures { logger.error("could not be done, will be tried again", metadata: ["what": "\(failure)"]) }
            }
            lastFailures = failures
            for entry in output.reconciliation.acknowledgements {
                logger.info("\(entry.outcome)", metadata: [
                    "pod": "\(entry.namespace)/\(entry.podName)", "secret": "\(entry.secretName)", "version": "\(entry.resourceVersion)",
                ])
            }
        }
    }

    /// In words that say what to look at; what the TLS library calls it does not.
    package static func reason(_ error: any Error) -> String {
        let text = "\(error)"
        if text.contains("CERTIFICATE_VERIFY_FAILED") || text.contains("unableToValidateCertificate") {
            return "the server's certificate is not signed by the authority in --ca-file, or is for another host or time"
        }
        return text.contains("errno: \(ECONNREFUSED)") ? "the server does not listen: connection refused" : text
    }

    private func followForever() async throws {
        var attempt = 0
        while !Task.isCancelled {
            let began = ContinuousClock.now
            do {
                try await follow()
            } catch is CancellationError {
                return
            } catch {
                logger.warning("no server, mounted secrets stay as they are", metadata: ["reason": "\(Self.reason(error))"])
            }
            loop.disconnected()
            attempt = ContinuousClock.now - began > .seconds(10) ? 0 : min(attempt + 1, 8)
            let ceiling = min(50 * (1 << attempt), 10_000)
            try? await Task.sleep(for: .milliseconds(Int.random(in: ceiling / 2...ceiling)))
        }
    }

    /// One connection: the stream, what is told meanwhile, and the node's own sign of life. It ends when the first of them does.
    private func follow() async throws {
        let connection = try ServerConnection(server)
        outbox.repeatReports()
        let result: Result<Void, any Error>
        do {
            try await connection.registerNode()
            let (revision, uids) = try await loop.ask { reconciler in
                reconciler.tellHoldings()
                return (reconciler.revision, try reconciler.observedPodUIDs())
            }
            let request = SyncRequest(node: server.node, resumeRevision: revision, observedPodUIDs: Array(uids.prefix(ProtocolLimits.acknowledgementsMax)))
            logger.info("following the server", metadata: ["server": "\(server.server)", "revision": "\(revision)"])
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await stream(connection, request) }
                group.addTask { try await tell(connection) }
                group.addTask { try await reportNode(connection) }
                defer { group.cancelAll() }
                try await group.next()
            }
            result = .success(())
        } catch {
            result = .failure(error)
        }
        // Not waited for: a server that hangs would delay the next attempt by its TLS farewell.
        Task { await connection.close() }
        try result.get()
    }

    private func stream(_ connection: ServerConnection, _ request: SyncRequest) async throws {
        try await connection.follow(request) { message in
            if let refusal = outbox.takeRefusal() { throw ServerFailure(description: refusal, status: 0) }
            if case .goodbye(let reason) = message { throw ServerFailure(description: "the server ends the stream: \(reason)", status: 0) }
            if !loop.submit(message) { try await Task.sleep(for: .milliseconds(20)) }
        }
    }

    /// Acknowledgements first: they are the trail. A pod's condition is sent when it differs from what was last sent.
    private func tell(_ connection: ServerConnection) async throws {
        for await _ in outbox.signals {
            if let refusal = outbox.takeRefusal() { throw ServerFailure(description: refusal, status: 0) }
            var pauseMilliseconds = 50
            while let (revision, entries) = outbox.nextAcknowledgements() {
                do {
                    try await connection.acknowledge(Acknowledgement(node: server.node, revision: revision, entries: entries))
                } catch let failure as ServerFailure where failure.isForNow {
                    // The stream lives: what is told on it goes on, and this is said again.
                    outbox.putBack(entries)
                    pauseMilliseconds = min(pauseMilliseconds * 2, Self.acknowledgementPauseMillisecondsMax)
                    try await Task.sleep(for: .milliseconds(Int.random(in: pauseMilliseconds / 2...pauseMilliseconds)))
                } catch {
                    outbox.putBack(entries)
                    throw error
                }
            }
            for report in outbox.changedReports() {
                do {
                    _ = try await connection.report(report)
                    outbox.sent(report)
                } catch let failure as ServerFailure where (400..<500).contains(failure.status) {
                    // Refused for good, and not for this moment: said once, and not again until it changes.
                    logger.warning("the server does not take a pod's condition", metadata: ["reason": "\(failure)"])
                    outbox.sent(report)
                }
            }
        }
    }

    private func reportNode(_ connection: ServerConnection) async throws {
        while true {
            try await Task.sleep(for: .seconds(Self.nodeReportSeconds))
            try await connection.reportNode()
        }
    }
}

/// What the server is still to be told; bounded.
private final class Outbox: Sendable {
    private struct State: Sendable {
        var acknowledgements: [Acknowledgement.Entry] = []
        var revision: Int64 = 0
        var reports: [String: PodReport] = [:]
        var sent: [String: PodReport] = [:]
        var refusal: String?
        var listener: AsyncStream<Void>.Continuation?
    }
    private let state = Mutex(State())
    private static let batchMax = 1_000

    func add(_ output: AgentOutput) {
        let listener = state.withLock { state in
            state.acknowledgements += output.reconciliation.acknowledgements + output.reconciliation.holdings
            let excess = state.acknowledgements.count - ProtocolLimits.acknowledgementsMax
            if excess > 0 { state.acknowledgements.removeFirst(excess) }
            state.revision = output.revision
            // A round that failed before it planned has no reports, and says nothing of pods.
            if output.reconciliation.failures.isEmpty || !output.reconciliation.reports.isEmpty {
                state.reports = [:]
                for report in output.reconciliation.reports { state.reports[report.podUID] = report }
                state.sent = state.sent.filter { state.reports[$0.key] != nil }
            }
            if let refusal = output.refusal { state.refusal = refusal }
            return state.listener
        }
        listener?.yield()
    }

    /// For one listener at a time: a new one takes over, and is told at once of what waits.
    var signals: AsyncStream<Void> {
        let (stream, continuation) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        state.withLock { $0.listener = continuation }
        continuation.yield()
        return stream
    }

    func repeatReports() {
        state.withLock {
            $0.sent = [:]
            $0.refusal = nil
        }
    }
    func takeRefusal() -> String? {
        state.withLock { state in
            defer { state.refusal = nil }
            return state.refusal
        }
    }
    func nextAcknowledgements() -> (Int64, [Acknowledgement.Entry])? {
        state.withLock { state in
            guard !state.acknowledgements.isEmpty else { return nil }
            let batch = Array(state.acknowledgements.prefix(Self.batchMax))
            state.acknowledgements.removeFirst(batch.count)
            return (state.revision, batch)
        }
    }
    func putBack(_ entries: [Acknowledgement.Entry]) { state.withLock { $0.acknowledgements.insert(contentsOf: entries, at: 0) } }
    func changedReports() -> [PodReport] {
        state.withLock { state in state.reports.values.filter { state.sent[$0.podUID] != $0 }.sorted { $0.podUID < $1.podUID } }
    }
    func sent(_ report: PodReport) { state.withLock { $0.sent[report.podUID] = report } }
}
