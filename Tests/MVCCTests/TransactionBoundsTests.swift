import Basics
import MVCC
import Testing

@Suite("bounds of transactions")
struct TransactionBoundsTests {
    /// `width` transactions of `width` operations each, within one.
    private func nested(_ width: Int, _ operation: (Int) -> Operation) -> Operation {
        let inner = (0..<width).map { outer in
            Operation.transaction(Transaction(success: (0..<width).map { operation(outer * width + $0) }))
        }
        return .transaction(Transaction(success: inner))
    }
    private func refusal(_ bench: Bench, _ operations: [Operation]) -> CommandRefusal? {
        guard case .failure(let refusal) = bench.apply(.transaction(Transaction(success: operations), guards: [])) else { return nil }
        return refusal
    }

    @Test("operations are counted through all levels: deletes are checked against each put")
    func countsThroughLevels() {
        let bench = Bench()
        func operations(_ width: Int) -> [Operation] {
            [nested(width) { .deleteRange(DeleteRangeRequest(KeyRange(bytes("d\($0)")))) },
             nested(width) { .put(PutRequest(key: bytes("p\($0)"), value: .sealed(sealed("v")))) }]
        }
        #expect(refusal(bench, operations(30)) == nil)
        #expect(refusal(bench, operations(40)) == .tooManyOperations)
    }

    @Test("several ranges look at a bounded number of keys together; one may look at all there are")
    func boundsRanges() throws {
        let bench = Bench()
        for key in 0..<1_200 { _ = bench.apply(.put(PutRequest(key: bytes("k\(key)"), value: .sealed(sealed("v"))))) }
        let all = Operation.range(RangeRequest(.prefix(bytes("k"))))
        #expect(refusal(bench, [all, all]) == nil)
        // 900 times 1,200 keys.
        #expect(refusal(bench, [nested(30) { _ in all }]) == .limitReached)
        guard case .transaction(let transaction) = nested(30, { _ in all }) else { return }
        #expect(throws: CommandRefusal.limitReached) { try bench.store.read(transaction, guards: []) }
        let compared = Compare(.prefix(bytes("k")), .greater, .version(0))
        #expect(throws: CommandRefusal.limitReached) {
            let compares = (0..<10).map { _ in Operation.transaction(Transaction(compares: [Compare](repeating: compared, count: 100))) }
            _ = try bench.store.read(Transaction(success: compares), guards: [])
        }
    }
}
