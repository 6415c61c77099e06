import Glibc

/// Folders and files of a file system that forgets what was not synced, without a kernel or a clock.
///
/// 1. A file's contents are kept once it is synced; its names, once their folders are. A sync of the one says nothing of the other (fsync(2)).
/// 2. A name that comes, goes or moves is one change, which is kept or lost as a whole, by itself: of several any may be kept.
/// 3. What neither a name, a change that was not synced, nor the kernel knows is gone.
struct LossyTree {
    struct Failure: Error { var code: Int32 }
    struct Moment { var seconds: Int64 = 0, nanoseconds: UInt32 = 0 }
    struct Node {
        var isFolder: Bool
        var permissions: UInt32, user: UInt32, group: UInt32
        var accessed: Moment, modified: Moment, changed: Moment
        var contents = LossyContents()
        fileprivate(set) var names: [String: UInt64] = [:]
        fileprivate(set) var links: UInt32 = 0
        /// How often the kernel was told of it and did not forget.
        fileprivate var mentions: UInt64 = 0
        fileprivate var keptNames: [String: UInt64] = [:]
    }
    /// What stands under a name from now on.
    private struct Naming { var folder: UInt64, name: String, target: UInt64? }

    static let root: UInt64 = 1
    /// A file's blocks are a list: holes take a place in it.
    static let fileBytesMax = 4 << 30
    private(set) var nodes: [UInt64: Node]
    private var namings: [[Naming]] = []
    private var last = root

    init(user: UInt32, group: UInt32, at now: Moment) {
        nodes = [Self.root: Node(isFolder: true, permissions: 0o755, user: user, group: group, accessed: now, modified: now, changed: now)]
    }

    var room: Int { nodes.values.reduce(0) { $0 + $1.contents.room } }
    func node(_ number: UInt64) throws(Failure) -> Node {
        guard let node = nodes[number] else { throw Failure(code: ESTALE) }
        return node
    }
    func target(_ name: String, in folder: UInt64) throws(Failure) -> UInt64 {
        guard let target = try node(folder).names[name] else { throw Failure(code: ENOENT) }
        return target
    }
    /// Of one that is there.
    mutating func change(_ number: UInt64, _ body: (inout Node) -> Void) {
        guard let place = nodes.index(forKey: number) else { return }
        body(&nodes.values[place])
    }

    // MARK: Names

    mutating func make(_ name: String, in folder: UInt64, isFolder: Bool, permissions: UInt32, user: UInt32, group: UInt32, at now: Moment) throws(Failure) -> UInt64 {
        guard try node(folder).names[name] == nil else { throw Failure(code: EEXIST) }
        last += 1
        nodes[last] = Node(isFolder: isFolder, permissions: permissions, user: user, group: group, accessed: now, modified: now, changed: now)
        apply([Naming(folder: folder, name: name, target: last)])
        return last
    }
    mutating func link(_ number: UInt64, as name: String, in folder: UInt64) throws(Failure) {
        guard try !node(number).isFolder else { throw Failure(code: EPERM) }
        guard try node(folder).names[name] == nil else { throw Failure(code: EEXIST) }
        apply([Naming(folder: folder, name: name, target: number)])
    }
    mutating func remove(_ name: String, in folder: UInt64, isFolder: Bool) throws(Failure) {
        try refuseReplacing(try target(name, in: folder), byFolder: isFolder)
        apply([Naming(folder: folder, name: name, target: nil)])
    }
    mutating func move(_ name: String, in folder: UInt64, to newName: String, in newFolder: UInt64, replacing: Bool) throws(Failure) {
        let moved = try target(name, in: folder)
        if let old = try node(newFolder).names[newName] {
            if old == moved { return }
            guard replacing else { throw Failure(code: EEXIST) }
            try refuseReplacing(old, byFolder: try node(moved).isFolder)
        }
        apply([Naming(folder: folder, name: name, target: nil), Naming(folder: newFolder, name: newName, target: moved)])
    }
    private func refuseReplacing(_ number: UInt64, byFolder: Bool) throws(Failure) {
        let node = try node(number)
        guard node.isFolder == byFolder else { throw Failure(code: node.isFolder ? EISDIR : ENOTDIR) }
        guard node.names.isEmpty else { throw Failure(code: ENOTEMPTY) }
    }
    private mutating func apply(_ change: [Naming]) {
        namings.append(change)
        for naming in change {
            if let old = nodes[naming.folder]?.names[naming.name] { nodes[old]?.links -= 1 }
            nodes[naming.folder]?.names[naming.name] = naming.target
            if let target = naming.target { nodes[target]?.links += 1 }
        }
        sweep()
    }

    // MARK: Contents

    /// `room`: bytes there are for all.
    mutating func write(_ bytes: UnsafeRawBufferPointer, at offset: Int, to number: UInt64, room: Int) throws(Failure) {
        guard offset >= 0, offset <= Self.fileBytesMax - bytes.count else { throw Failure(code: EFBIG) }
        let growth = try node(number).contents.growth(offset, bytes.count)
        guard growth == 0 || self.room + growth <= room else { throw Failure(code: ENOSPC) }
        change(number) { $0.contents.write(bytes, at: offset) }
    }

    mutating func resize(_ number: UInt64, to size: Int) throws(Failure) {
        guard (0...Self.fileBytesMax).contains(size) else { throw Failure(code: EFBIG) }
        _ = try node(number)
        change(number) { $0.contents.resize(size) }
    }

    // MARK: What is kept

    mutating func sync(_ number: UInt64) throws(Failure) {
        guard try node(number).isFolder else { return change(number) { $0.contents.sync() } }
        // And with a move between folders what came before it in either: no name may come back after it.
        var folders: Set<UInt64> = [number], synced: [[Naming]] = [], others: [[Naming]] = []
        for change in namings.reversed() {
            if change.contains(where: { folders.contains($0.folder) }) {
                folders.formUnion(change.map(\.folder))
                synced.append(change)
            } else { others.append(change) }
        }
        for change in synced.reversed() { keep(change) }
        namings = others.reversed()
        sweep()
    }
    private mutating func keep(_ change: [Naming]) {
        for naming in change { nodes[naming.folder]?.keptNames[naming.name] = naming.target }
    }
    /// Of what was not synced a share is kept, of files and of names. The kernel is to forget everything.
    mutating func losePower(keeping share: Double, using generator: inout some RandomNumberGenerator) {
        for number in nodes.keys.sorted() { nodes[number]?.contents.losePower(keeping: share, using: &generator) }
        for change in namings where Double.random(in: 0..<1, using: &generator) < share { keep(change) }
        namings = []
        for number in nodes.keys { change(number) { ($0.names, $0.mentions, $0.links) = ($0.keptNames, 0, 0) } }
        sweep()
        for target in nodes.values.flatMap(\.names.values) { change(target) { $0.links += 1 } }
    }

    // MARK: The kernel

    mutating func mention(_ number: UInt64) { nodes[number]?.mentions += 1 }
    mutating func forget(_ number: UInt64, times: UInt64) {
        guard let mentions = nodes[number]?.mentions else { return }
        nodes[number]?.mentions = mentions - min(mentions, times)
        if mentions <= times { sweep() }
    }

    /// (3)
    private mutating func sweep() {
        var known: Set<UInt64> = [], ahead = [Self.root] + namings.flatMap { $0.flatMap { [$0.folder] + ($0.target.map { [$0] } ?? []) } }
        ahead += nodes.filter { $0.value.mentions > 0 }.keys
        while let number = ahead.popLast() {
            guard known.insert(number).inserted, let node = nodes[number] else { continue }
            ahead += node.names.values
            ahead += node.keptNames.values
        }
        for number in nodes.keys where !known.contains(number) { nodes[number] = nil }
    }
}
