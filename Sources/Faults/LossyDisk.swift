import Basics
import Foundation
import Glibc
import Synchronization

/// A file system in this process's memory (FUSE), which forgets what was not synced: any part of it, sector by sector, and names too.
///
/// 1. `/dev/fuse` is opened and mounted, for which one must be root. A thread of its own answers the kernel until that has no more use for the mount.
/// 2. The kernel keeps no writes back, so that those come in their order; pages that are written through a shared mapping come when the kernel likes, or with a sync.
/// 3. Power goes: what is kept is decided in that moment, and every request fails from then on.
/// 4. Power comes: the mount is exchanged for a new one, so that the kernel has nothing of what was. Requests of the old one fail for ever.
///
/// Stricter than disks are: a file system with a journal keeps changes of names in their order, and a sync of a new file keeps its name as well.
package final class LossyDisk: Disk {
    fileprivate struct Content {
        var tree: LossyTree
        /// Which mount is in use; 0: none.
        var mount = 0
        var hasPower = true
        var room: Int
        var syncsLie = false
        var listings: [UInt64: [(name: String, node: UInt64, isFolder: Bool)]] = [:]
        var lastListing: UInt64 = 0
    }
    package let path: String
    package let losesPower = true
    private let roomMax: Int
    private let content: Mutex<Content>

    /// Throws where there is no FUSE, or mounting is not allowed.
    package static func mount(at path: String, megabytes: Int) throws -> LossyDisk {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        let disk = LossyDisk(path, megabytes << 20)
        try disk.mount()
        return disk
    }
    private init(_ path: String, _ room: Int) {
        (self.path, roomMax) = (path, room)
        content = Mutex(Content(tree: LossyTree(user: getuid(), group: getgid(), at: Self.now), room: room))
    }

    /// From now on syncs say that they have been, and do nothing: without power everything is as it is on the disk now, in one piece.
    package func lie() { content.withLock { $0.syncsLie = true } }

    package func fill(leaving kilobytes: Int) { content.withLock { $0.room = $0.tree.room + kilobytes << 10 } }
    package func empty() { content.withLock { $0.room = roomMax } }

    package func losePower(seed: UInt64) { // (3)
        var generator = SeededGenerator(seed: seed)
        let share = [0, 0.1, 0.5, 0.9, Double.random(in: 0..<1, using: &generator)].randomElement(using: &generator) ?? 0
        content.withLock { content in
            guard content.hasPower else { return }
            content.hasPower = false
            content.tree.losePower(keeping: content.syncsLie ? 0 : share, using: &generator)
        }
    }
    package func powerUp() async throws { // (4)
        try await Subprocess.run("umount", "-l", path)
        content.withLock { content in
            (content.hasPower, content.listings) = (true, [:])
            content.mount += 1 // the old one's requests change nothing, whatever comes first
        }
        try mount()
    }
    package func unmount() async {
        _ = try? await Subprocess.run("umount", "-l", path)
        content.withLock { $0.hasPower = false }
    }

    private func mount() throws { // (1)
        let device = open("/dev/fuse", O_RDWR | O_CLOEXEC)
        guard device >= 0 else { throw FaultFailure("/dev/fuse: \(String(cString: strerror(errno)))") }
        let options = "fd=\(device),rootmode=40000,user_id=\(getuid()),group_id=\(getgid()),default_permissions,allow_other"
        guard Glibc.mount("lossy", path, "fuse", UInt(MS_NOSUID | MS_NODEV), options) == 0 else {
            defer { close(device) }
            throw FaultFailure("mount of a FUSE file system: \(String(cString: strerror(errno)))")
        }
        let number = content.withLock { content in
            content.mount += 1
            return content.mount
        }
        Thread.detachNewThread { [self] in serve(device, number) }
    }

    private func serve(_ device: Int32, _ mount: Int) {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: KernelRequest.bytesMax, alignment: 8)
        defer {
            buffer.deallocate()
            close(device)
        }
        while true {
            let count = Glibc.read(device, buffer.baseAddress, buffer.count)
            // ENOENT: the request was withdrawn. ENODEV: the kernel is through with this mount.
            if count < 0, [EINTR, EAGAIN, ENOENT].contains(errno) { continue }
            guard count > 0, let request = KernelRequest(UnsafeRawBufferPointer(rebasing: buffer[..<count])) else { return }
            guard let answer = answer(request, mount) else { continue }
            _ = answer.withUnsafeBytes { Glibc.write(device, $0.baseAddress, $0.count) } // ENOENT: who asked is gone
        }
    }

    // MARK: Answers

    private static var now: LossyTree.Moment {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return .init(seconds: Int64(time.tv_sec), nanoseconds: UInt32(time.tv_nsec))
    }

    /// `nil`: none is wanted.
    private func answer(_ request: KernelRequest, _ mount: Int) -> [UInt8]? {
        var answer = KernelAnswer(to: request.serial)
        do throws(LossyTree.Failure) {
            switch request.operation {
            case .interrupt: return nil
            case .start: answer = Self.start(request, answer)
            case .forget, .forgetMany:
                content.withLock { content in if content.mount == mount { content.forget(request) } }
                return nil
            default:
                let result = content.withLock { content -> Result<KernelAnswer, LossyTree.Failure> in
                    guard content.mount == mount, content.hasPower else { return .failure(.init(code: EIO)) }
                    return Result { () throws(LossyTree.Failure) in
                        var filled = answer
                        try content.carryOut(request, &filled, Self.now)
                        return filled
                    }
                }
                answer = try result.get()
            }
            return answer.finished()
        } catch { return answer.finished(error: error.code) }
    }
    private static func start(_ request: KernelRequest, _ answer: KernelAnswer) -> KernelAnswer {
        let bigWrites: UInt32 = 1 << 5, pagesMax: UInt32 = 1 << 22 // (2): and not FUSE_WRITEBACK_CACHE
        var answer = answer
        answer.put(UInt32(7), UInt32(31), request.word(8), (bigWrites | pagesMax) & request.word(12))
        answer.put(UInt16(0), UInt16(0), UInt32(KernelRequest.writeBytesMax), UInt32(1), UInt16(KernelRequest.writeBytesMax / 4_096), UInt16(0))
        answer.put(zeros: 32)
        return answer
    }
}

extension LossyDisk.Content {
    fileprivate mutating func forget(_ request: KernelRequest) {
        guard request.operation == .forgetMany else { return tree.forget(request.node, times: request.long(0)) }
        for entry in 0..<Int(request.word(0)) { tree.forget(request.long(8 + 16 * entry), times: request.long(16 + 16 * entry)) }
    }

    fileprivate mutating func carryOut(_ request: KernelRequest, _ answer: inout KernelAnswer, _ now: LossyTree.Moment) throws(LossyTree.Failure) {
        let node = request.node
        switch request.operation {
        case .lookup: try putEntry(try tree.target(request.name(), in: node), &answer)
        case .attributes: try putAttributes(node, &answer)
        case .setAttributes:
            try setAttributes(request, now)
            try putAttributes(node, &answer)
        case .makeNode:
            guard request.word(0) & S_IFMT == S_IFREG else { throw .init(code: EPERM) }
            try putEntry(try make(request, request.name(16), isFolder: false, permissions: request.word(0), now), &answer)
        case .makeFolder: try putEntry(try make(request, request.name(8), isFolder: true, permissions: request.word(0), now), &answer)
        case .create:
            try putEntry(try make(request, request.name(16), isFolder: false, permissions: request.word(4), now), &answer)
            putOpened(&answer)
        case .unlink, .removeFolder: try tree.remove(request.name(), in: node, isFolder: request.operation == .removeFolder)
        case .rename, .renameWithFlags:
            let names = request.names(request.operation == .rename ? 8 : 16), flags = request.operation == .rename ? 0 : request.word(8)
            guard names.count == 2, flags & ~1 == 0 else { throw .init(code: EINVAL) }
            try tree.move(names[0], in: node, to: names[1], in: request.long(0), replacing: flags == 0)
        case .link:
            try tree.link(request.long(0), as: request.name(8), in: node)
            try putEntry(request.long(0), &answer)
        case .open: putOpened(&answer)
        case .read:
            let file = try tree.node(node)
            answer.change { file.contents.read(request.number(8), Int(request.word(16)), appendingTo: &$0) }
        case .write:
            let count = Int(request.word(16)), start = KernelRequest.writeHeaderBytes
            guard request.body.count >= start + count else { throw .init(code: EINVAL) }
            try tree.write(UnsafeRawBufferPointer(rebasing: request.body[start..<start + count]), at: request.number(8), to: node, room: room)
            tree.change(node) { ($0.modified, $0.changed) = (now, now) }
            answer.put(UInt32(count), UInt32(0))
        case .allocate: try allocate(request)
        case .sync, .syncFolder: if !syncsLie { try tree.sync(node) }
        case .openFolder: try openFolder(node, &answer)
        case .readFolder: readFolder(request, &answer)
        case .releaseFolder: listings[request.long(0)] = nil
        case .room: putRoom(&answer)
        case .release, .end: break
        case .interrupt, .start, .forget, .forgetMany, nil: throw .init(code: ENOSYS)
        }
    }

    private mutating func make(_ request: KernelRequest, _ name: String, isFolder: Bool, permissions: UInt32, _ now: LossyTree.Moment) throws(LossyTree.Failure) -> UInt64 {
        try tree.make(
            name, in: request.node, isFolder: isFolder, permissions: permissions & 0o7777, user: request.user, group: request.group, at: now)
    }
    private mutating func setAttributes(_ request: KernelRequest, _ now: LossyTree.Moment) throws(LossyTree.Failure) {
        let which = request.word(0)
        func moment(_ seconds: Int, _ nanoseconds: Int, isNow: UInt32) -> LossyTree.Moment {
            which & isNow != 0 ? now : .init(seconds: Int64(bitPattern: request.long(seconds)), nanoseconds: request.word(nanoseconds))
        }
        if which & 8 != 0 { try tree.resize(request.node, to: request.number(16)) }
        tree.change(request.node) { node in
            if which & 1 != 0 { node.permissions = request.word(68) & 0o7777 }
            if which & 2 != 0 { node.user = request.word(76) }
            if which & 4 != 0 { node.group = request.word(80) }
            if which & 8 != 0 { node.modified = now }
            if which & 16 != 0 { node.accessed = moment(32, 56, isNow: 1 << 7) }
            if which & 32 != 0 { node.modified = moment(40, 60, isNow: 1 << 8) }
            node.changed = now
        }
    }
    /// Room that is promised is not taken: a write may fail for want of it nevertheless.
    private mutating func allocate(_ request: KernelRequest) throws(LossyTree.Failure) {
        let keepsSize: UInt32 = 1, mode = request.word(24), end = request.number(8) &+ request.number(16)
        guard mode & ~keepsSize == 0 else { throw .init(code: EOPNOTSUPP) }
        if mode == 0, try end > tree.node(request.node).contents.size { try tree.resize(request.node, to: end) }
    }

    // MARK: Bodies

    private mutating func putEntry(_ number: UInt64, _ answer: inout KernelAnswer) throws(LossyTree.Failure) {
        answer.put(number, UInt64(0), UInt64(0), UInt64(0), UInt32(0), UInt32(0)) // nothing of it may be cached
        try putNode(number, &answer)
        tree.mention(number)
    }
    private func putAttributes(_ number: UInt64, _ answer: inout KernelAnswer) throws(LossyTree.Failure) {
        answer.put(UInt64(0), UInt32(0), UInt32(0))
        try putNode(number, &answer)
    }
    private func putNode(_ number: UInt64, _ answer: inout KernelAnswer) throws(LossyTree.Failure) {
        let node = try tree.node(number), times = [node.accessed, node.modified, node.changed]
        answer.put(number, UInt64(node.contents.size), UInt64(node.contents.room / 512))
        for time in times { answer.put(time.seconds) }
        for time in times { answer.put(time.nanoseconds) }
        // Of a folder two and one for each within it: whoever walks through it counts on that.
        let links = node.isFolder ? 2 + UInt32(node.names.values.count { tree.nodes[$0]?.isFolder == true }) : node.links
        answer.put((node.isFolder ? S_IFDIR : S_IFREG) | node.permissions, links, node.user, node.group, UInt32(0), UInt32(4_096), UInt32(0))
    }
    private func putOpened(_ answer: inout KernelAnswer, _ handle: UInt64 = 0) {
        let keepsCache: UInt32 = 2 // nobody but this kernel changes it
        answer.put(handle, handle == 0 ? keepsCache : 0, UInt32(0))
    }
    private func putRoom(_ answer: inout KernelAnswer) {
        let free = UInt64(max(0, room - tree.room) / 4_096)
        answer.put(free + UInt64(tree.room / 4_096), free, free, UInt64(1 << 20), UInt64(1 << 20), UInt32(4_096), UInt32(255), UInt32(4_096))
        answer.put(zeros: 28)
    }

    /// A folder is read as it was when it was opened: removals meanwhile leave no name out.
    private mutating func openFolder(_ number: UInt64, _ answer: inout KernelAnswer) throws(LossyTree.Failure) {
        let names = try tree.node(number).names.sorted { $0.key < $1.key }
        lastListing += 1
        listings[lastListing] = [(".", number, true), ("..", LossyTree.root, true)]
            + names.map { ($0.key, $0.value, tree.nodes[$0.value]?.isFolder ?? false) }
        putOpened(&answer, lastListing)
    }
    private func readFolder(_ request: KernelRequest, _ answer: inout KernelAnswer) {
        let listing = listings[request.long(0)] ?? []
        for place in max(0, min(listing.count, request.number(8)))..<listing.count {
            let entry = listing[place], length = entry.name.utf8.count, padding = (8 - length % 8) % 8
            if answer.bodyCount + 24 + length + padding > Int(request.word(16)) { return }
            answer.put(entry.node, UInt64(place + 1), UInt32(length), UInt32(entry.isFolder ? 4 : 8))
            answer.put(entry.name)
            answer.put(zeros: padding)
        }
    }
}
