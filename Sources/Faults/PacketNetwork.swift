import Foundation
import Glibc

/// Hosts with a network of their own each (Linux namespaces, joined by a bridge), between which a packet filter (nft) loses packets, one way or both.
///
/// 1. A process that sleeps holds each namespace; all is gone when these are.
/// 2. A host has the address 10.231.0.(number + 1), and its own loopback, which nothing here touches.
/// 3. What is lost is lost where it arrives: a rule of the receiver, by sender.
package final class PacketNetwork: Sendable {
    package enum Loss: Sendable {
        /// Nothing arrives, and nobody is told.
        case silence
        /// Connections end at once.
        case reset
        case some(percent: Int)
    }
    private let bridge: Subprocess
    private let holders: [Subprocess]

    private init(_ bridge: Subprocess, _ holders: [Subprocess]) { (self.bridge, self.holders) = (bridge, holders) }

    /// Throws where that is not allowed, or a program is missing.
    package static func make(hosts count: Int, in folder: String) async throws -> PacketNetwork {
        guard (1...200).contains(count), let unshare = Subprocess.find("unshare") else { throw FaultFailure("this machine has no unshare") }
        guard Subprocess.find("nft") != nil else { throw FaultFailure("this machine has no nft") }
        let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/ns/net")
        var started: [Subprocess] = []
        do {
            for _ in 0...count { started.append(try Subprocess(unshare, ["-n", "sleep", "7200"], folder: folder)) } // (1)
            for process in started {
                try await eventually("a network of its own", withinSeconds: 10) {
                    guard process.isRunning else { throw FaultFailure("unshare: \(process.log)") }
                    let its = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(process.pid)/ns/net")
                    return its != nil && its != own
                }
            }
            let network = PacketNetwork(started[0], Array(started.dropFirst()))
            try await network.build()
            return network
        } catch {
            for process in started { try? await process.end() }
            throw error
        }
    }

    package func end() async {
        for process in holders + [bridge] { try? await process.end() }
    }

    package static func address(_ host: Int) -> String { "10.231.0.\(host + 1)" } // (2)
    /// The namespace, as a file.
    package func namespace(_ host: Int) -> String { Self.namespace(holders[host]) }
    private static func namespace(_ process: Subprocess) -> String { "/proc/\(process.pid)/ns/net" }

    /// Of what comes from `sender`, or from all others, to `host`.
    package func lose(_ loss: Loss, from sender: Int?, to host: Int) async throws { // (3)
        let from = sender.map { "ip saddr \(Self.address($0)) " } ?? ""
        let verdict = switch loss {
        case .silence: "drop"
        case .reset: "meta l4proto tcp reject with tcp reset"
        case .some(let percent): "numgen random mod 100 < \(percent) drop"
        }
        try await Self.filter(holders[host], "add rule inet faults incoming iifname \"eth0\" \(from)\(verdict)")
    }
    package func heal(_ host: Int) async throws { try await Self.filter(holders[host], "flush chain inet faults incoming") }

    private static func filter(_ holder: Subprocess, _ rule: String) async throws {
        try await Subprocess.run("nsenter", "--net=" + namespace(holder), "nft", rule)
    }

    private func build() async throws {
        var lines = [
            "set -e", "in_bridge() { nsenter --net=\(Self.namespace(bridge)) \"$@\"; }", "in_bridge ip link add name switch type bridge",
            "in_bridge ip link set dev switch up",
        ]
        for (number, holder) in holders.enumerated() {
            let inHost = "nsenter --net=\(Self.namespace(holder))"
            lines += [
                "in_bridge ip link add name port\(number) type veth peer name peer\(number)",
                "in_bridge ip link set dev peer\(number) netns \(holder.pid) name eth0",
                "in_bridge ip link set dev port\(number) master switch up",
                "\(inHost) ip addr add \(Self.address(number))/24 dev eth0", "\(inHost) ip link set dev eth0 up", "\(inHost) ip link set dev lo up",
                "\(inHost) nft 'add table inet faults; add chain inet faults incoming { type filter hook input priority 0; }'",
            ]
        }
        try await Subprocess.run("/bin/sh", "-c", lines.joined(separator: "\n"))
    }

    /// A connection to a port of the loopback of a namespace. Blocks for at most two seconds; changes the thread's network, so it wants one of its own.
    static func connect(to port: Int, inside namespace: String) throws -> Int32 {
        typealias Enter = @convention(c) (Int32, Int32) -> Int32
        guard let symbol = dlsym(nil, "setns") else { throw FaultFailure("this libc has no setns") }
        let network = open(namespace, O_RDONLY | O_CLOEXEC)
        guard network >= 0 else { throw FaultFailure("\(namespace): \(errno)") }
        defer { close(network) }
        guard unsafeBitCast(symbol, to: Enter.self)(network, 0) == 0 else { throw FaultFailure("setns: \(errno)") }
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw FaultFailure("socket: \(errno)") }
        var patience = timeval(tv_sec: 2, tv_usec: 0), address = sockaddr_in()
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(UInt16(truncatingIfNeeded: port)).bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let code = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
        }
        guard code == 0 else {
            defer { close(descriptor) }
            throw FaultFailure("connect: \(errno)")
        }
        return descriptor
    }
}
