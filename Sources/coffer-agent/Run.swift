import ArgumentParser
import Foundation
import Logging
import Mounts
import NodeAgent
import NodeProtocol
import Resources
import UnixSignals

struct Run: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Runs the agent until it is told to stop. Mounted secrets stay when it stops.")

    @Option(help: "This node's name, as pods' spec.nodeName has it.") var nodeName: String
    @Option(help: "The secrets API: https://host:port.") var server: String
    @Option(help: "PEM file with the server's certificate authority.") var caFile: String
    @Option(help: "PEM file with this node's certificate.") var certFile: String
    @Option(help: "PEM file with its key.") var keyFile: String
    @OptionGroup var root: RootOption
    @Option(help: "Where records are kept, on a tmpfs of the agent's own (default: state in the root directory).") var stateDir: String?
    @Option(help: "Wipe everything once the server was silent for so long, e.g. 1h (default: keep the last version).") var maxStale: TimeSpan?
    @Option(help: "How long a superseded version stays readable.") var oldVersionGrace = TimeSpan(milliseconds: 2_000)
    @Option(help: "Largest sum of the bytes of one volume.") var maxVolumeBytes = MountPolicy().volumeBytesMax
    @Flag(help: "Go on where tmpfs cannot be kept from swap, though swap is on.") var allowSwap = false
    @Option(help: "trace, debug, info, notice, warning, error.") var logLevel = "info"

    func validate() throws {
        if let wrong = Names.errors(dns1123Subdomain: nodeName).first { throw ValidationError("--node-name \(nodeName): \(wrong)") }
        guard server.hasPrefix("https://") else { throw ValidationError("--server must begin with https://") }
        guard Logger.Level(rawValue: logLevel) != nil else { throw ValidationError("--log-level \(logLevel) is unknown") }
        guard (1...64 << 20).contains(maxVolumeBytes) else { throw ValidationError("--max-volume-bytes must be between 1 and \(64 << 20)") }
    }

    private var policy: MountPolicy {
        MountPolicy(volumeBytesMax: maxVolumeBytes, versionGraceMilliseconds: oldVersionGrace.milliseconds, staleMillisecondsMax: maxStale?.milliseconds)
    }

    func run() async throws {
        var logger = Logger(label: "coffer-agent") { StreamLogHandler.standardError(label: $0) }
        logger.logLevel = Logger.Level(rawValue: logLevel) ?? .info
        for warning in ProcessHardening.apply() { logger.error("\(warning)") }
        let options = EngineOptions(rootDirectory: root.rootDir, stateDirectory: stateDir, allowSwap: allowSwap, policy: policy)
        let loop = AgentLoop()
        do {
            try await loop.start { NodeReconciler(engine: try VolumeEngine(options, crashPoint: CrashSwitch.fromEnvironment()), policy: options.policy) }
        } catch {
            logger.critical("the agent cannot start", metadata: ["reason": "\(error)"])
            throw ExitCode.failure
        }
        if try await !loop.ask({ $0.isNoswap }) { logger.error("tmpfs cannot be kept from swap on this kernel: secrets may reach a swap device") }
        let service = NodeAgentService(
            server: ServerOptions(node: nodeName, server: server, caFile: caFile, certificateFile: certFile, keyFile: keyFile), loop: loop, logger: logger)
        logger.info("started", metadata: ["node": "\(nodeName)", "root": "\(root.rootDir)"])
        try await serve(service, loop, logger)
        loop.stop()
        logger.info("stopped; what is mounted stays")
    }

    private func serve(_ service: NodeAgentService, _ loop: AgentLoop, _ logger: Logger) async throws {
        let node = nodeName, rootDirectory = root.rootDir
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await service.run() }
            group.addTask { try await StatusSocket.serve(root: rootDirectory) { await Self.answer($0, loop, node: node) } }
            group.addTask {
                for await signal in await UnixSignalsSequence(trapping: .sigterm, .sigint) {
                    logger.info("told to stop", metadata: ["signal": "\(signal)"])
                    return
                }
            }
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    private static func answer(_ question: StatusQuestion, _ loop: AgentLoop, node: String) async -> StatusAnswer {
        do {
            switch question.verb {
            case .status: return StatusAnswer(status: try await loop.ask { try $0.status(node: node) })
            case .leftovers: return StatusAnswer(lines: try await loop.ask { try $0.leftovers() })
            case .drain:
                let result = try await loop.ask { try $0.drain() }
                return StatusAnswer(lines: result.acknowledgements.map { "\($0.outcome) \($0.namespace)/\($0.podName) \($0.secretName)" },
                                    error: result.failures.isEmpty ? nil : result.failures.joined(separator: "; "))
            case .collect:
                let result = try await loop.ask { try $0.collectLeftovers() }
                return StatusAnswer(lines: [], error: result.failures.isEmpty ? nil : result.failures.joined(separator: "; "))
            }
        } catch {
            return StatusAnswer(error: "\(error)")
        }
    }
}

/// Debug builds end themselves at a step, as SIGKILL would, when `COFFER_AGENT_CRASH_AT` names it (`attach`, or `attach:3`
/// for its third time): how tests show that every step can be cut off. Release builds do not look.
enum CrashSwitch {
    static func fromEnvironment() -> CrashPoint {
        #if DEBUG
        guard let text = ProcessInfo.processInfo.environment["COFFER_AGENT_CRASH_AT"] else { return { _ in } }
        let parts = text.split(separator: ":")
        guard let name = parts.first, let step = MountStep(rawValue: String(name)) else { return { _ in } }
        var left = parts.count > 1 ? Int(parts[1]) ?? 1 : 1
        return { reached in
            guard reached == step else { return }
            left -= 1
            if left == 0 { kill(getpid(), SIGKILL) }
        }
        #else
        return { _ in }
        #endif
    }
}
