import APIClient
package import ArgumentParser
import Resources

package struct Delete: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(abstract: "Delete resources by file, by name, or by label.")
    @Argument(help: "TYPE NAME…, TYPE/NAME…, or TYPE with -l or --all.", completion: .resources) var resources: [String] = []
    @OptionGroup var manifests: ManifestOptions
    @OptionGroup var selector: SelectorOptions
    @OptionGroup var dryRun: DryRunOptions
    @Flag(help: "All of the type in the namespace.") var all = false
    @Flag(name: [.customShort("A"), .long], help: "In all namespaces, with -l or --all.") var allNamespaces = false
    @Option(help: "Seconds that a pod gets to end; -1 is its own, 0 is none.") var gracePeriod: Int64 = -1
    @Flag(help: "At once: the same as --grace-period=1.") var now = false
    @Flag(help: "With --grace-period=0: do not wait for the node.") var force = false
    @Flag(help: "Say nothing of resources that are not there.") var ignoreNotFound = false
    @Flag(inversion: .prefixedNo, help: "Wait until they are gone.") var wait = true
    @Option(help: "Seconds to wait, with a unit or without (30, 30s, 2m); 0 is without end.") var timeout = "0"
    @Option(help: .hidden) var cascade: String?
    @Option(name: [.customShort("o", allowingJoined: true), .long], help: "name: print only names.") var output: String?
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        if now && gracePeriod >= 0 { throw CommandError("--now and --grace-period cannot be specified together") }
        let graceSeconds: Int64? = now ? 1 : force && gracePeriod < 0 ? 0 : gracePeriod < 0 ? nil : gracePeriod
        let deadline = try WaitTime.seconds(timeout)
        let (client, contextNamespace) = try invocation.connect(global)
        let targets = try await TargetArguments(
            resources, manifests, selector, all: all, allNamespaces: allNamespaces, global: global, contextNamespace: contextNamespace
        ).found(client, invocation)
        if targets.isEmpty { return invocation.note("No resources found") }
        if force { invocation.note("Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated.") }
        var waiting: [(target: TargetArguments.Target, uid: String)] = []
        var failed = false
        do {
            try await invocation.forEach(targets) { target in
                do {
                    if dryRun.dryRun != .client {
                        let left = try await client.delete(
                            target.type, namespace: target.namespace, name: target.name, graceSeconds: graceSeconds, dryRun: dryRun.dryRun == .server)
                        if let left, dryRun.dryRun == .none { waiting.append((target, left.uid)) }
                    }
                    invocation.print(
                        output == "name"
                            ? "\(target.type.singular)/\(target.name)"
                            : "\(target.type.singular) \"\(target.name)\" \(force ? "force deleted" : "deleted")\(dryRun.dryRun.suffix)")
                } catch let status as Status where status.reason == .notFound && (ignoreNotFound || all || !selector.labels.isEmpty) {
                    return
                }
            }
        } catch is AlreadyReported {
            failed = true
        }
        if wait { for entry in waiting { try await waitUntilGone(entry.target, uid: entry.uid, client, deadline) } }
        if failed { throw AlreadyReported() }
    }

    private func waitUntilGone(_ target: TargetArguments.Target, uid: String, _ client: APIClient, _ deadlineSeconds: Int64) async throws {
        let clock = ContinuousClock(), start = clock.now
        var pauseMilliseconds: Int64 = 20
        while let left = try await client.find(target.type, namespace: target.namespace, name: target.name), uid.isEmpty || left.uid == uid {
            if deadlineSeconds > 0, clock.now - start > .seconds(deadlineSeconds) {
                throw CommandError("timed out waiting for the condition on \(target.type.plural)/\(target.name)")
            }
            try await Task.sleep(for: .milliseconds(pauseMilliseconds))
            pauseMilliseconds = min(pauseMilliseconds * 2, 500)
        }
    }
}
