import Basics
import Faults
import Foundation
import Glibc
import Testing
import Torture

/// The disk that forgets, by system calls as a server makes them.
@Suite(.serialized) struct LossyDiskTests {
    static let reason: String? = {
        do {
            let folder = try TemporaryFolder("lossy-probe"), disk = try LossyDisk.mount(at: folder.path + "/disk", megabytes: 1)
            _ = umount2(disk.path, Int32(MNT_DETACH))
            return nil
        } catch { return "\(error)" }
    }()

    private struct File {
        let descriptor: Int32
        init(_ path: String, _ flags: Int32 = 0) throws {
            descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0o600)
            if descriptor < 0 { throw FaultFailure("open \(path): \(errno)") }
        }
        func write(_ bytes: [UInt8], at offset: Int = 0) throws {
            let count = pwrite(descriptor, bytes, bytes.count, off_t(offset))
            if count != bytes.count { throw FaultFailure("pwrite: \(errno)") }
        }
        func syncData() throws { if fdatasync(descriptor) != 0 { throw FaultFailure("fdatasync: \(errno)") } }
        func close() { Glibc.close(descriptor) }
    }
    private func syncFolder(_ path: String) throws {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        defer { close(descriptor) }
        if fsync(descriptor) != 0 { throw FaultFailure("fsync of \(path): \(errno)") }
    }
    private func names(_ path: String) throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: path).sorted() }
    private func bytes(_ path: String) throws -> [UInt8] { [UInt8](try Data(contentsOf: URL(fileURLWithPath: path))) }

    private func withDisk(megabytes: Int = 16, _ body: (LossyDisk) async throws -> Void) async throws {
        let folder = try TemporaryFolder("lossy"), disk = try LossyDisk.mount(at: folder.path + "/disk", megabytes: megabytes)
        do { try await body(disk) } catch {
            await disk.unmount()
            throw error
        }
        await disk.unmount()
    }

    @Test("what was synced outlasts a loss of power; of what was not, each sector is as it was or as it was written", .enabled(if: reason == nil, "no FUSE here"))
    func sectors() async throws {
        try await withDisk { disk in
            let path = disk.path + "/file", sectors = 64
            var seen: Set<Int> = []
            for seed in 0..<24 {
                let file = try File(path), old = UInt8(2 * seed), new = old + 1
                try file.write([UInt8](repeating: old, count: sectors * 512))
                try file.syncData()
                try syncFolder(disk.path)
                try file.write([UInt8](repeating: new, count: sectors * 512))
                disk.losePower(seed: UInt64(seed))
                #expect(pwrite(file.descriptor, [1], 1, 0) == -1 && errno == EIO)
                #expect(fdatasync(file.descriptor) == -1)
                file.close()
                try await disk.powerUp()
                let found = try bytes(path)
                #expect(found.count == sectors * 512)
                var news = 0
                for sector in 0..<sectors {
                    let values = Set(found[sector * 512..<sector * 512 + 512])
                    #expect(values == [old] || values == [new])
                    news += values == [new] ? 1 : 0
                }
                seen.insert(news)
            }
            #expect(seen.contains(0) && seen.contains { (1..<sectors).contains($0) })
        }
    }

    @Test("a name is kept when its folder was synced: a sync of the file is not enough", .enabled(if: reason == nil, "no FUSE here"))
    func names() async throws {
        try await withDisk { disk in
            var outcomes: Set<[String]> = []
            for seed in 0..<24 {
                let folder = disk.path + "/\(seed)"
                try #require(mkdir(folder, 0o700) == 0)
                try syncFolder(disk.path)
                for name in ["kept", "old"] { try File(folder + "/" + name).close() }
                try syncFolder(folder)
                let file = try File(folder + "/new")
                try file.write([7])
                try file.syncData()
                file.close()
                try #require(rename(folder + "/old", folder + "/moved") == 0)
                disk.losePower(seed: UInt64(seed))
                try await disk.powerUp()
                let found = try names(folder)
                #expect(found.contains("kept") && found.contains("old") != found.contains("moved"), "a move is whole or not at all")
                if found.contains("new") { #expect(try bytes(folder + "/new") == [7]) }
                outcomes.insert(found)
            }
            #expect(outcomes.contains(["kept", "old"]) && outcomes.count > 1)
        }
    }

    @Test("writes that sync themselves, and shared pages that are synced, are kept", .enabled(if: reason == nil, "no FUSE here"))
    func otherWays() async throws {
        try await withDisk { disk in
            let path = disk.path + "/file"
            let file = try File(path, O_DSYNC)
            try file.write([UInt8](repeating: 1, count: 8_192))
            try syncFolder(disk.path)
            let map = try #require(mmap(nil, 8_192, PROT_READ | PROT_WRITE, MAP_SHARED, file.descriptor, 0))
            try #require(map != MAP_FAILED)
            map.storeBytes(of: 2, toByteOffset: 4_096, as: UInt8.self)
            #expect(msync(map, 8_192, MS_SYNC) == 0)
            try file.write([3], at: 1) // and a reader of the pages sees what is written
            #expect(map.load(fromByteOffset: 1, as: UInt8.self) == 3)
            disk.losePower(seed: 1)
            munmap(map, 8_192)
            file.close()
            try await disk.powerUp()
            let found = try bytes(path)
            #expect(found.count == 8_192 && found[0] == 1 && found[1] == 3 && found[4_096] == 2)
        }
    }

    @Test("a disk that lies about its syncs keeps nothing of what was synced since it began to", .enabled(if: reason == nil, "no FUSE here"))
    func lies() async throws {
        try await withDisk { disk in
            try File(disk.path + "/before").close()
            try syncFolder(disk.path)
            disk.lie()
            for seed in 0..<16 {
                let file = try File(disk.path + "/\(seed)")
                try file.write([1])
                try file.syncData()
                file.close()
                try syncFolder(disk.path)
                disk.losePower(seed: UInt64(seed))
                try await disk.powerUp()
            }
            #expect(try names(disk.path) == ["before"])
        }
    }

    @Test("a full disk refuses new room, lets what has room be written, and takes more when there is some", .enabled(if: reason == nil, "no FUSE here"))
    func full() async throws {
        try await withDisk { disk in
            let file = try File(disk.path + "/file")
            defer { file.close() }
            try file.write([UInt8](repeating: 1, count: 8_192))
            disk.fill(leaving: 4)
            try file.write([2], at: 0)
            try file.write([2], at: 8_192)
            #expect(pwrite(file.descriptor, [3], 1, 12_288) == -1 && errno == ENOSPC)
            disk.empty()
            try file.write([3], at: 12_288)
        }
    }

    @Test("files and folders behave like those of any file system", .enabled(if: reason == nil, "no FUSE here"))
    func semantics() async throws {
        try await withDisk { disk in
            let root = disk.path
            try #require(mkdir(root + "/a", 0o700) == 0 && mkdir(root + "/a/b", 0o700) == 0)
            #expect(mkdir(root + "/a", 0o700) == -1 && errno == EEXIST)
            #expect(rmdir(root + "/a") == -1 && errno == ENOTEMPTY)
            #expect(open(root + "/none", O_RDONLY) == -1 && errno == ENOENT)
            let file = try File(root + "/a/file")
            try file.write([UInt8](1...9))
            #expect(link(root + "/a/file", root + "/link") == 0)
            #expect(unlink(root + "/a/file") == 0)
            #expect(try bytes(root + "/link") == [UInt8](1...9))
            #expect(ftruncate(file.descriptor, 4) == 0 && ftruncate(file.descriptor, 6) == 0)
            #expect(try bytes(root + "/link") == [1, 2, 3, 4, 0, 0])
            #expect(unlink(root + "/link") == 0)
            var byte: UInt8 = 0
            #expect(pread(file.descriptor, &byte, 1, 3) == 1 && byte == 4, "open, without a name")
            file.close()
            for number in 0..<300 { try File(root + "/a/b/\(number)").close() }
            #expect(try names(root + "/a/b").count == 300)
            try FileManager.default.removeItem(atPath: root + "/a")
            #expect(try names(root) == [])
            var attributes = stat()
            let private_ = try File(root + "/private")
            #expect(fchmod(private_.descriptor, 0o400) == 0 && fstat(private_.descriptor, &attributes) == 0 && attributes.st_mode & 0o7777 == 0o400)
            #expect(flock(private_.descriptor, LOCK_EX | LOCK_NB) == 0)
            private_.close()
        }
    }

    @Test("contents are what a plain array would be, and after a loss without luck what they were at the last sync", arguments: 1...20 as ClosedRange<UInt64>)
    func contents(_ seed: UInt64) {
        var generator = SeededGenerator(seed: seed), contents = LossyContents(), plain: [UInt8] = [], synced: [UInt8] = []
        func found() -> [UInt8] {
            var bytes: [UInt8] = []
            contents.read(0, 1 << 20, appendingTo: &bytes)
            return bytes
        }
        for step in 0..<400 {
            switch Int.random(in: 0..<10, using: &generator) {
            case ..<6:
                let offset = Int.random(in: 0..<20_000, using: &generator), count = Int.random(in: 1..<9_000, using: &generator)
                let bytes = [UInt8](repeating: Bool.random(using: &generator) ? 0 : UInt8(truncatingIfNeeded: step), count: count)
                if plain.count < offset + count { plain += [UInt8](repeating: 0, count: offset + count - plain.count) }
                plain.replaceSubrange(offset..<offset + count, with: bytes)
                bytes.withUnsafeBytes { contents.write($0, at: offset) }
            case 6:
                let size = Int.random(in: 0..<30_000, using: &generator)
                plain = Array(plain.prefix(size)) + [UInt8](repeating: 0, count: max(0, size - plain.count))
                contents.resize(size)
            case 7, 8:
                contents.sync()
                synced = plain
            default:
                contents.losePower(keeping: 0, using: &generator)
                plain = synced
            }
            #expect(contents.size == plain.count)
        }
        #expect(found() == plain)
        contents.losePower(keeping: 1, using: &generator)
        #expect(found() == plain)
    }

    @Test("a machine that can mount nothing has no disks that lose power, and does without those faults")
    func poorMachine() {
        let machine = Torture.Machine(), options = Torture.Options()
        #expect(machine.disk(options) == nil)
        for fault in [Fault.powerCut, .blackout, .fullDisk] { #expect(!machine.can(fault, options)) }
        #expect(machine.can(.kill, options))
    }
}
