import Foundation
import Glibc
import Mounts
import NodeAgent
import NodeProtocol
import SecretMemory
import Testing

/// Where the bytes of a secret must not come: swap, other mount namespaces, the agent's own core.
@Suite(.serialized, .enabled(if: Node.isPossible, Node.why)) struct LeakTests {
    private static let canary = "swap-canary-" + String(repeating: "5e1f0c", count: 8)

    /// A file that is swap while this lives. Nil, with the reason printed, where none can be made.
    private final class SwapFile {
        let path: String
        private static let bytes = 8 << 20

        init?(in folder: String) throws {
            path = folder + "/swap"
            guard FileManager.default.createFile(atPath: path, contents: Data(count: Self.bytes), attributes: [.posixPermissions: 0o600]) else { return nil }
            guard try Self.run("mkswap", [path]) == 0, try Self.run("swapon", ["--priority", "32767", path]) == 0 else {
                print("skipped: a swap file cannot be made and used here (mkswap, swapon)")
                return nil
            }
        }
        deinit { _ = try? Self.run("swapoff", [path]) }

        private static func run(_ tool: String, _ arguments: [String]) throws -> Int32 {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
            process.arguments = ["PATH=/usr/sbin:/sbin:/usr/bin:/bin", tool] + arguments
            process.standardOutput = FileHandle.nullDevice
            process.standardError = FileHandle.nullDevice
            try process.run()
            process.waitUntilExit()
            return process.terminationStatus
        }

        /// How often the text lies in the file, read from the disk and not from a cache.
        func count(of text: String) throws -> Int {
            sync()
            let handle = try FileHandle(forReadingFrom: URL(fileURLWithPath: path))
            defer { try? handle.close() }
            // Swap is written below the file system: what its cache has of the file is older.
            posix_fadvise(handle.fileDescriptor, 0, 0, POSIX_FADV_DONTNEED)
            let content = try handle.readToEnd() ?? Data(), needle = Data(text.utf8)
            var found = 0, place = content.startIndex
            while let range = content.range(of: needle, in: place..<content.endIndex) {
                found += 1
                place = range.upperBound
            }
            return found
        }
    }

    /// Asks the kernel to put the file's pages out, as it would under pressure. Answers how many are still in memory.
    private func pageOut(_ path: String) throws -> Int {
        let file = open(path, O_RDONLY)
        #expect(file >= 0)
        defer { close(file) }
        let size = Int(lseek(file, 0, SEEK_END)), page = sysconf(Int32(_SC_PAGESIZE))
        let map = try #require(mmap(nil, size, PROT_READ, MAP_SHARED, file, 0))
        try #require(map != MAP_FAILED)
        defer { munmap(map, size) }
        let advicePageOut: Int32 = 21
        for offset in stride(from: 0, to: size, by: page) { _ = map.load(fromByteOffset: offset, as: UInt8.self) }
        #expect(madvise(map, size, advicePageOut) == 0)
        var isResident = [UInt8](repeating: 0, count: (size + page - 1) / page)
        #expect(mincore(map, size, &isResident) == 0)
        return isResident.count { $0 & 1 == 1 }
    }

    @Test("pages of a volume do not go to swap, though the kernel is asked to put them there; pages of a plain tmpfs do")
    func swapped() throws {
        let node = try Node()
        try FileManager.default.createDirectory(atPath: node.root, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o750])
        guard let swap = try SwapFile(in: node.root) else { return }
        let value = String(repeating: Self.canary, count: 4_096)
        let plain = node.root + "/plain"
        try FileManager.default.createDirectory(atPath: plain, withIntermediateDirectories: true)
        #expect(mount("plain", plain, "tmpfs", 0, "size=4m") == 0)
        defer { umount2(plain, Int32(MNT_DETACH)) }
        let control = "plain-file-canary-" + String(repeating: "7a2b", count: 12)
        try String(repeating: control, count: 4_096).write(toFile: plain + "/k", atomically: false, encoding: .utf8)
        // Reclaim is asked for, not ordered: again until the control is out.
        let isOut = try eventually {
            _ = try pageOut(plain + "/k")
            return try swap.count(of: control) > 0
        }
        guard isOut else {
            print("skipped: the kernel does not put pages of a plain tmpfs to a swap file here")
            return
        }
        try node.start()
        let pod = pod(1)
        node.state.pods = [pod]
        node.state.secrets = [try secret(data: [("k", value)])]
        #expect(try node.sync().failures == [])
        let pages = (value.utf8.count + 4_095) / 4_096
        for _ in 0..<20 { #expect(try pageOut(node.path(pod, "v", "k")) == pages, "every page stays in memory") }
        #expect(try swap.count(of: control) > 0)
        #expect(try swap.count(of: Self.canary) == 0)
        #expect(node.text(pod, "v", "k") == value)
    }

    @Test("a private mount namespace that kept the mounts loses the bytes with everybody else")
    func otherNamespaces() throws {
        let node = try Node()
        try node.start()
        let pod = pod(1)
        node.state.pods = [pod]
        node.state.secrets = [try secret(data: [("k", "canary-in-a-namespace")])]
        try node.sync()
        let holder = Process()
        holder.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        holder.arguments = ["unshare", "--mount", "--propagation", "private", "sleep", "600"]
        holder.standardInput = FileHandle.nullDevice
        holder.standardOutput = FileHandle.nullDevice
        try holder.run()
        defer {
            kill(holder.processIdentifier, SIGKILL)  // SIGTERM may be blocked in what this process starts
            holder.waitUntilExit()
        }
        let inside = "/proc/\(holder.processIdentifier)/root" + node.path(pod)
        func link(_ process: String) -> String? { try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(process)/ns/mnt") }
        try #require(eventually { link("\(holder.processIdentifier)") != nil && link("\(holder.processIdentifier)") != link("self") })
        #expect(try String(contentsOfFile: inside + "/k", encoding: .utf8) == "canary-in-a-namespace")
        let held = open(inside + "/k", O_RDONLY)
        defer { close(held) }
        node.state.pods = []
        #expect(try node.sync().failures == [])
        // Whether the mount is there still or went with its directory: nothing is in it, nor in what was opened before.
        #expect((try? String(contentsOfFile: inside + "/k", encoding: .utf8)) == nil)
        var byte: UInt8 = 0
        #expect(pread(held, &byte, 1, 0) == 0)
    }

    @Test("the agent's process leaves no core, locks its memory and cannot be traced",
          .enabled(if: CrashTests.agent != nil, "the debug build of coffer-agent is not beside the tests"))
    func process() throws {
        let node = try Node()
        let agent = Process()
        agent.executableURL = URL(fileURLWithPath: try #require(CrashTests.agent))
        agent.arguments = ["replay", "--root-dir", node.root]
        let input = Pipe()
        agent.standardInput = input
        try agent.run()
        let pid = agent.processIdentifier
        func line(_ file: String, _ name: String) -> String? {
            (try? String(contentsOfFile: "/proc/\(pid)/\(file)", encoding: .utf8))?.split(separator: "\n").first { $0.hasPrefix(name) }.map(String.init)
        }
        // It waits for its input once it has made its root.
        try #require(eventually { FileManager.default.fileExists(atPath: node.root + "/state/key") || FileManager.default.fileExists(atPath: node.root + "/pods") })
        #expect(line("limits", "Max core file size")?.split(separator: " ").suffix(3).prefix(2) == ["0", "0"])
        let locked = line("status", "VmLck")?.split(separator: " ").compactMap { Int($0) }.first ?? 0
        #expect(locked > 1_000)
        try input.fileHandleForWriting.close()
        agent.waitUntilExit()
        #expect(agent.terminationStatus == 0)
    }
}
