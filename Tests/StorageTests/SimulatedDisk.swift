import Basics
import Storage
import Synchronization
import WriteAheadLog

/// A file system in memory with what a power cut does to a real one: of what was not synced, any 512-byte sectors and any
/// directory entries survive. Errors and a full disk happen when told to. Keeps a protocol of every operation.
final class SimulatedDisk: FileSystem {
    struct State {
        var files: [String: Node] = [:]
        /// Names as a power cut leaves them.
        var durableNames: [String: Node] = [:]
        var locked: Set<String> = []
        var operations: [String] = []
        var syncsUntilFailure: Int?
        var writesUntilFailure: Int?
        var bytesLeft = Int.max
    }
    final class Node: @unchecked Sendable {
        var bytes: [UInt8] = []
        var durable: [UInt8] = []
        var name: String
        init(_ name: String, _ bytes: [UInt8] = []) { self.name = name; self.bytes = bytes; durable = bytes }
    }
    let state = Mutex(State())

    var operations: [String] { state.withLock { $0.operations } }
    func forgetOperations() { state.withLock { $0.operations = [] } }
    func failSync(after count: Int) { state.withLock { $0.syncsUntilFailure = count } }
    func failWrite(after count: Int) { state.withLock { $0.writesUntilFailure = count } }
    func limit(bytesLeft: Int) { state.withLock { $0.bytesLeft = bytesLeft } }
    func contents(of name: String) -> [UInt8]? { state.withLock { $0.files[name]?.bytes } }
    func replace(_ name: String, with bytes: [UInt8]?) { state.withLock { $0.files[name] = bytes.map { Node(name, $0) } } }
    var names: [String] { state.withLock { $0.files.keys.sorted() } }

    /// The disk after the power came back: per sector and per name, old or new by chance where it was not synced.
    /// All of it at one moment: the disk is at work meanwhile.
    func afterPowerCut(_ generator: inout SeededGenerator) -> SimulatedDisk {
        let after = SimulatedDisk()
        let survivors = state.withLock { state in
            Set(state.files.keys).union(state.durableNames.keys).sorted().compactMap { name in
                let current = state.files[name], durable = state.durableNames[name]
                let node = current === durable || Bool.random(using: &generator) ? current : durable
                return node.map { Node(name, Self.survivingBytes(of: $0, &generator)) }
            }
        }
        after.state.withLock { state in
            for survivor in survivors { (state.files[survivor.name], state.durableNames[survivor.name]) = (survivor, survivor) }
        }
        return after
    }
    private static func survivingBytes(of node: Node, _ generator: inout SeededGenerator) -> [UInt8] {
        var bytes = node.durable
        guard node.bytes != node.durable else { return bytes }
        if node.bytes.count > bytes.count { bytes += [UInt8](repeating: 0, count: node.bytes.count - bytes.count) }
        for start in stride(from: 0, to: node.bytes.count, by: 512) where Bool.random(using: &generator) {
            let sector = start..<min(start + 512, node.bytes.count)
            bytes.replaceSubrange(sector, with: node.bytes[sector])
        }
        return bytes
    }

    private func last(_ path: String) -> String { String(path.split(separator: "/").last ?? "") }
    private func note(_ operation: String) { state.withLock { $0.operations.append(operation) } }

    func makeDirectory(_ path: String) { note("mkdir") }
    func names(in directory: String) -> [String] { names }
    func open(_ path: String, creating: Bool) throws(StorageFailure) -> any StoredFile {
        let name = last(path)
        let node: Node? = state.withLock { state in
            if creating {
                guard state.files[name] == nil else { return nil }
                state.operations.append("create \(name)")
                state.files[name] = Node(name)
            }
            return state.files[name]
        }
        guard let node else { throw .io(operation: "open", code: 2) }
        return SimulatedFile(self, node)
    }
    func lock(_ path: String) throws(StorageFailure) -> any StoredFile {
        let name = last(path)
        guard state.withLock({ $0.locked.insert(name).inserted }) else { throw .inUse }
        return SimulatedLock(self, name)
    }
    func rename(_ path: String, to newPath: String) {
        state.withLock { state in
            state.operations.append("rename \(last(path)) to \(last(newPath))")
            guard let node = state.files.removeValue(forKey: last(path)) else { return }
            node.name = last(newPath)
            state.files[node.name] = node
        }
    }
    func remove(_ path: String) {
        state.withLock { state in
            state.operations.append("remove \(last(path))")
            if let node = state.files.removeValue(forKey: last(path)) { state.bytesLeft += state.bytesLeft < .max / 2 ? node.bytes.count : 0 }
        }
    }
    func synchronizeDirectory(_ path: String) throws(StorageFailure) {
        try synchronize("sync directory") { $0.durableNames = $0.files }
    }
    fileprivate func synchronize(_ operation: String, _ effect: @Sendable (inout State) -> Void) throws(StorageFailure) {
        let fails = state.withLock { state in
            state.operations.append(operation)
            if let left = state.syncsUntilFailure {
                state.syncsUntilFailure = left - 1
                if left == 0 { return true }
            }
            effect(&state)
            return false
        }
        if fails { throw .io(operation: operation, code: 5) }
    }
    fileprivate func write(_ node: Node, _ bytes: UnsafeRawBufferPointer, _ offset: Int) throws(StorageFailure) {
        let copy = Array(bytes)
        let failure: StorageFailure? = state.withLock { state in
            state.operations.append("write \(node.name) \(offset)..<\(offset + copy.count)")
            if let left = state.writesUntilFailure {
                state.writesUntilFailure = left - 1
                if left == 0 { return .io(operation: "write", code: 5) }
            }
            let growth = max(0, offset + copy.count - node.bytes.count)
            guard growth <= state.bytesLeft else { return .full(operation: "write") }
            state.bytesLeft -= growth
            if growth > 0 { node.bytes += [UInt8](repeating: 0, count: growth) }
            node.bytes.replaceSubrange(offset..<offset + copy.count, with: copy)
            return nil
        }
        if let failure { throw failure }
    }

    private final class SimulatedFile: StoredFile {
        let disk: SimulatedDisk, node: Node
        init(_ disk: SimulatedDisk, _ node: Node) { self.disk = disk; self.node = node }
        private var name: String { disk.state.withLock { _ in node.name } }
        func byteCount() -> Int { disk.state.withLock { _ in node.bytes.count } }
        func read(into target: UnsafeMutableRawBufferPointer, at offset: Int) -> Int {
            let bytes = disk.state.withLock { _ in node.bytes }
            let part = bytes[min(offset, bytes.count)..<min(offset + target.count, bytes.count)]
            target.copyBytes(from: part)
            return part.count
        }
        func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(StorageFailure) { try disk.write(node, bytes, offset) }
        func synchronizeData() throws(StorageFailure) { try disk.synchronize("sync data \(name)") { [node] _ in node.durable = node.bytes } }
        func synchronize() throws(StorageFailure) { try disk.synchronize("sync \(name)") { [node] _ in node.durable = node.bytes } }
        func close() {}
    }
    private final class SimulatedLock: StoredFile {
        let disk: SimulatedDisk, name: String
        init(_ disk: SimulatedDisk, _ name: String) { self.disk = disk; self.name = name }
        func byteCount() -> Int { 0 }
        func read(into target: UnsafeMutableRawBufferPointer, at offset: Int) -> Int { 0 }
        func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) {}
        func synchronizeData() {}
        func synchronize() {}
        func close() { disk.state.withLock { _ = $0.locked.remove(name) } }
    }
}
