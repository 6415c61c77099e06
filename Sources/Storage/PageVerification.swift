import Glibc

/// Reads an LMDB file as bytes before LMDB maps it, and names what does not fit: LMDB trusts its pages, and a flipped bit in one would let it read
/// or write anywhere, or not find what is there. What the pages hold is checked elsewhere: records and rows are authenticated.
///
///     page   pgno u64 | pad u16 | flags u16 | lower u16, upper u16 (overflow: pages u32) | pointers u16 …   … nodes
///     node   low u16 | high u16 | flags u16 | key size u16 | key | data        branch: page = flags:high:low      leaf: size = high:low
///     meta   after a page's first 16 bytes: magic u32 | version u32 | address u64 | map bytes u64 | table (free) | table (main) | last page u64 | txn u64
///     table  pad u32 | flags u16 | depth u16 | branch, leaf, overflow pages u64 | entries u64 | root u64
///
/// Steps: (1) both meta pages, of which the one of the later transaction counts; (2) the tree of tables and each table's tree: kinds, bounds, order
/// of keys, counts; (3) the list of free pages, which nothing uses.
///
/// The file may end before its last page. LMDB never writes a page that one transaction took and let go again: it only lists it as free
/// (`mdb_page_loose`, `mdb_ovpage_free`). Of pages beyond the end each must be listed; LMDB writes such a page before it reads it, so what it
/// reads of its map always lies in the file.
///
/// Nor does an overflow page's length follow from the value: a smaller value, put again within a transaction, keeps the longer run of pages.
///
/// A changed transaction number can make LMDB begin at the commit before the last one. Nothing is lost by that: the log is cut only up to what
/// that one holds.
///
/// Invariant: no byte of the file reaches a trap or an unbounded loop: a page is visited once.
struct PageVerification {
    private static let metaPages = 2, headerBytes = 16, nodeBytes = 8, tableBytes = 48
    private static let magic: UInt32 = 0xbeef_c0de, version: UInt32 = 1
    private static let noPage = UInt64.max
    private static let depthMax = 32
    /// LMDB makes a table anew whose name it does not find.
    private static let tableNames = Set(Database.tableNames.map { Array($0.utf8) })
    private enum Kind { static let branch: UInt16 = 1, leaf: UInt16 = 2, overflow: UInt16 = 4, meta: UInt16 = 8 }
    private enum NodeFlag { static let big: UInt16 = 1, table: UInt16 = 2 }
    private enum TableFlag { static let integerKeys: UInt16 = 8 }

    private struct Table {
        var depth: UInt16, branches: UInt64, leaves: UInt64, overflows: UInt64, entries: UInt64, root: UInt64, flags: UInt16, pad: UInt32
    }
    private struct Counts { var branches: UInt64 = 0, leaves: UInt64 = 0, overflows: UInt64 = 0, entries: UInt64 = 0 }
    private enum Content { case free, tables, rows }

    private let descriptor: Int32
    private let pageBytes: Int
    /// Pages that lie in the file, and the last one that was ever taken.
    private let filePages: UInt64
    private var lastPage: UInt64
    private var isUsed: [Bool] = []
    private var tables: [Table] = []
    private var freePages: [UInt64] = []

    /// Nothing, if the file is not there or was never written to the end of its first pages: then LMDB says what it is.
    static func check(path: String) throws(StorageFailure) {
        let descriptor = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        defer { Glibc.close(descriptor) }
        var file = stat()
        guard unsafe fstat(descriptor, &file) == 0 else { throw .posix("fstat") }
        let pageBytes = Int(sysconf(Int32(_SC_PAGESIZE)))
        guard file.st_size >= metaPages * pageBytes else { return }
        var verification = PageVerification(descriptor: descriptor, pageBytes: pageBytes, fileBytes: Int(file.st_size))
        try verification.run()
    }
    private init(descriptor: Int32, pageBytes: Int, fileBytes: Int) {
        self.descriptor = descriptor
        self.pageBytes = pageBytes
        filePages = UInt64(fileBytes / pageBytes)
        lastPage = UInt64(Self.metaPages - 1)
    }

    private mutating func run() throws(StorageFailure) {
        let (free, main) = try meta()  // (1)
        isUsed = [Bool](repeating: false, count: Int(min(lastPage + 1, filePages)))
        for page in 0..<Self.metaPages { isUsed[page] = true }
        try tree(main, .tables)  // (2)
        guard tables.isEmpty || tables.count == Self.tableNames.count else { throw StorageFailure.damagedPage(main.root) }
        for table in tables { try tree(table, .rows) }
        try tree(free, .free)
        try checkFreePages(listedAt: free.root)  // (3)
    }

    // MARK: (1)

    private mutating func meta() throws(StorageFailure) -> (free: Table, main: Table) {
        var latest: (transaction: UInt64, free: Table, main: Table, last: UInt64)?
        for number in 0..<UInt64(Self.metaPages) {
            let page = try read(number)
            let at = Self.headerBytes
            guard page.u16(10) == Kind.meta, page.u32(at) == Self.magic, page.u32(at + 4) == Self.version else { throw StorageFailure.damagedPage(number) }
            let free = table(page, at + 24), main = table(page, at + 24 + Self.tableBytes)
            guard free.pad == UInt32(pageBytes), free.flags == TableFlag.integerKeys, main.flags == 0 else { throw StorageFailure.damagedPage(number) }
            let last = page.u64(at + 24 + 2 * Self.tableBytes), transaction = page.u64(at + 32 + 2 * Self.tableBytes)
            if latest == nil || transaction > latest!.transaction { latest = (transaction, free, main, last) }
        }
        guard let latest, latest.last >= 1, latest.last < UInt64(Int32.max) else { throw StorageFailure.damagedPage(0) }
        lastPage = latest.last
        return (latest.free, latest.main)
    }
    private func table(_ page: Page, _ at: Int) -> Table {
        Table(
            depth: page.u16(at + 6), branches: page.u64(at + 8), leaves: page.u64(at + 16), overflows: page.u64(at + 24), entries: page.u64(at + 32),
            root: page.u64(at + 40), flags: page.u16(at + 4), pad: page.u32(at))
    }

    // MARK: (2)

    private mutating func tree(_ table: Table, _ content: Content) throws(StorageFailure) {
        var counts = Counts()
        if table.root == Self.noPage {
            guard table.depth == 0 else { throw StorageFailure.damagedPage(0) }
        } else {
            guard (1...UInt16(Self.depthMax)).contains(table.depth) else { throw StorageFailure.damagedPage(table.root) }
            try subtree(table.root, level: Int(table.depth), from: nil, to: nil, content, &counts)
        }
        guard counts.branches == table.branches, counts.leaves == table.leaves, counts.overflows == table.overflows, counts.entries == table.entries else {
            throw StorageFailure.damagedPage(table.root == Self.noPage ? 0 : table.root)
        }
    }

    /// Keys of the subtree lie in `from..<to`; leaves are at level 1.
    private mutating func subtree(
        _ number: UInt64, level: Int, from low: ArraySlice<UInt8>?, to high: ArraySlice<UInt8>?, _ content: Content, _ counts: inout Counts
    ) throws(StorageFailure) {
        try use(number)
        let page = try read(number)
        let isLeaf = level == 1
        guard page.u16(10) == (isLeaf ? Kind.leaf : Kind.branch) else { throw StorageFailure.damagedPage(number) }
        let lower = Int(page.u16(12)), upper = Int(page.u16(14))
        guard lower >= Self.headerBytes, lower % 2 == 0, lower <= upper, upper <= pageBytes else { throw StorageFailure.damagedPage(number) }
        let count = (lower - Self.headerBytes) / 2
        guard isLeaf || count >= 2 else { throw StorageFailure.damagedPage(number) }
        if isLeaf { counts.leaves += 1 } else { counts.branches += 1 }
        var keys: [ArraySlice<UInt8>] = [], children: [UInt64] = []
        for index in 0..<count {
            let at = Int(page.u16(Self.headerBytes + 2 * index))
            guard at >= upper, at + Self.nodeBytes <= pageBytes else { throw StorageFailure.damagedPage(number) }
            let keyBytes = Int(page.u16(at + 6)), data = at + Self.nodeBytes + keyBytes
            guard data <= pageBytes else { throw StorageFailure.damagedPage(number) }
            let key = page.bytes[(at + Self.nodeBytes)..<data]
            // A branch's first key stands for "everything before the second".
            if isLeaf || index > 0 {
                let previous = index > (isLeaf ? 0 : 1) ? keys[index - 1] : low
                let isAfter = previous.map { isLeaf && index == 0 ? !precedes(key, $0, content) : precedes($0, key, content) } ?? true
                guard isAfter, high.map({ precedes(key, $0, content) }) ?? true else { throw StorageFailure.damagedPage(number) }
            }
            keys.append(key)
            if isLeaf {
                counts.entries += 1
                try leafNode(page, number, at: at, key: key, data: data, content, &counts)
            } else {
                children.append(UInt64(page.u16(at)) | UInt64(page.u16(at + 2)) << 16 | UInt64(page.u16(at + 4)) << 32)
            }
        }
        for (index, child) in children.enumerated() {
            try subtree(
                child, level: level - 1, from: index == 0 ? low : keys[index], to: index + 1 < children.count ? keys[index + 1] : high, content, &counts)
        }
    }

    private mutating func leafNode(
        _ page: Page, _ number: UInt64, at: Int, key: ArraySlice<UInt8>, data: Int, _ content: Content, _ counts: inout Counts
    ) throws(StorageFailure) {
        let size = Int(page.u16(at)) | Int(page.u16(at + 2)) << 16, flags = page.u16(at + 4)
        if flags == NodeFlag.big, content != .tables {
            guard data + 8 <= pageBytes else { throw StorageFailure.damagedPage(number) }
            let first = page.u64(data), pages = (Self.headerBytes - 1 + size) / pageBytes + 1
            let head = try read(first), run = UInt64(head.u32(12))
            guard head.u16(10) == Kind.overflow, run >= UInt64(pages), run <= lastPage else { throw StorageFailure.damagedPage(first) }
            for offset in 0..<run { try use(first + offset) }
            counts.overflows += run
            if content == .free { try freeList(try overflow(first, bytes: size), number) }
            return
        }
        guard data + size <= pageBytes else { throw StorageFailure.damagedPage(number) }
        switch content {
        case .rows: guard flags == 0 else { throw StorageFailure.damagedPage(number) }
        case .tables:
            guard flags == NodeFlag.table, size == Self.tableBytes, Self.tableNames.contains(Array(key)) else { throw StorageFailure.damagedPage(number) }
            let found = table(page, data)
            guard found.flags == 0 else { throw StorageFailure.damagedPage(number) }
            tables.append(found)
        case .free:
            guard flags == 0, data - at - Self.nodeBytes == 8 else { throw StorageFailure.damagedPage(number) }
            try freeList(Array(page.bytes[data..<(data + size)]), number)
        }
    }

    private mutating func use(_ page: UInt64) throws(StorageFailure) {
        guard page >= UInt64(Self.metaPages), page <= lastPage else { throw StorageFailure.damagedPage(page) }
        guard page < filePages else { throw StorageFailure.truncatedRecords }
        guard !isUsed[Int(page)] else { throw StorageFailure.damagedPage(page) }
        isUsed[Int(page)] = true
    }

    private func precedes(_ one: ArraySlice<UInt8>, _ other: ArraySlice<UInt8>, _ content: Content) -> Bool {
        if content != .free { return one.lexicographicallyPrecedes(other) }
        guard one.count == 8, other.count == 8 else { return false }
        return one.reversed().lexicographicallyPrecedes(other.reversed())  // little-endian transactions
    }

    // MARK: (3)

    /// How many, then the pages.
    private mutating func freeList(_ bytes: [UInt8], _ number: UInt64) throws(StorageFailure) {
        let list = Page(bytes: bytes)
        guard bytes.count >= 8, bytes.count % 8 == 0, list.u64(0) <= UInt64(bytes.count / 8 - 1) else { throw StorageFailure.damagedPage(number) }
        for index in 0..<Int(list.u64(0)) { freePages.append(list.u64(8 + 8 * index)) }
    }

    /// None is used or listed twice, and all that the file lacks are among them.
    private mutating func checkFreePages(listedAt root: UInt64) throws(StorageFailure) {
        var missing: [UInt64] = []
        for page in freePages {
            guard page >= UInt64(Self.metaPages), page <= lastPage else { throw StorageFailure.damagedPage(root) }
            guard page < filePages else {
                missing.append(page)
                continue
            }
            guard !isUsed[Int(page)] else { throw StorageFailure.damagedPage(root) }
            isUsed[Int(page)] = true
        }
        missing.sort()
        guard zip(missing, missing.dropFirst()).allSatisfy({ $0 < $1 }) else { throw StorageFailure.damagedPage(root) }
        guard UInt64(missing.count) == lastPage + 1 - min(filePages, lastPage + 1) else { throw StorageFailure.truncatedRecords }
    }

    // MARK: Reading

    private struct Page {
        var bytes: [UInt8]
        func u16(_ at: Int) -> UInt16 { UInt16(bytes[at]) | UInt16(bytes[at + 1]) << 8 }
        func u32(_ at: Int) -> UInt32 { UInt32(u16(at)) | UInt32(u16(at + 2)) << 16 }
        func u64(_ at: Int) -> UInt64 { UInt64(u32(at)) | UInt64(u32(at + 4)) << 32 }
    }

    /// A page that bears its own number.
    private func read(_ number: UInt64) throws(StorageFailure) -> Page {
        guard number <= lastPage else { throw StorageFailure.damagedPage(number) }
        guard number < filePages else { throw StorageFailure.truncatedRecords }
        let page = Page(bytes: try bytes(of: number, from: Int(number) * pageBytes, count: pageBytes))
        guard page.u64(0) == number else { throw StorageFailure.damagedPage(number) }
        return page
    }
    private func overflow(_ first: UInt64, bytes count: Int) throws(StorageFailure) -> [UInt8] {
        try bytes(of: first, from: Int(first) * pageBytes + Self.headerBytes, count: count)
    }
    private func bytes(of page: UInt64, from offset: Int, count: Int) throws(StorageFailure) -> [UInt8] {
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, read in
            read = max(0, unsafe pread(descriptor, buffer.baseAddress, count, offset))
        }
        guard bytes.count == count else { throw StorageFailure.damagedPage(page) }
        return bytes
    }
}
