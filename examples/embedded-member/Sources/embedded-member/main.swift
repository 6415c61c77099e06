import Coffer
import Foundation
import Synchronization

// A member of a cluster inside this process: it writes and watches until told to stop, then proves that nothing was lost.
//
//     embedded-member DIRECTORY NAME INITIAL-CLUSTER PEERS-DIRECTORY KEY-FILE ORDERS
//
// In the folder ORDERS a file `lead` names, by its id, the member that is to lead; a file `enough` ends it.

/// What the watch was told, in order.
final class Told: Sendable {
    private let numbers = Mutex<[Int]>([])
    func append(_ number: Int) { numbers.withLock { $0.append(number) } }
    var all: [Int] { numbers.withLock { $0 } }
}

func say(_ text: String) {
    print(text)
    fflush(nil)
}
func key(_ number: Int) -> Coffer.Key { Coffer.Key("counter/" + String(format: "%06d", number)) }

let arguments = CommandLine.arguments
guard arguments.count == 7 else {
    say("usage: embedded-member DIRECTORY NAME INITIAL-CLUSTER PEERS-DIRECTORY KEY-FILE ORDERS")
    exit(64)
}
let (name, peers, orders) = (arguments[2], arguments[4], arguments[6])
let coffer = try await Coffer.open(arguments[1], unlock: .keyFile(arguments[5]), as: Coffer.ClusterMembership(
    name: name, initialCluster: arguments[3],
    certificates: .init(authority: peers + "/ca.crt", certificate: peers + "/\(name).crt", key: peers + "/\(name).key")))
say("ready: member \(String(coffer.leadership.member, radix: 16)) of \(coffer.members.map(\.name).sorted().joined(separator: ", "))")

let told = Told()
let watching = Task {
    for try await batch in coffer.watch(.prefix("counter/"), after: 1) {
        for case .put(let item) in batch.changes where item.version == 1 { told.append(Int(item.value.revealedText()) ?? -1) }
    }
}

// Each entry until it is acknowledged. One whose outcome is not known may be there already: then it is not written a second time.
let clock = ContinuousClock()
var acknowledged = 0, last = clock.now, longest = Duration.zero, leaders: [UInt64] = []
while !FileManager.default.fileExists(atPath: orders + "/enough") {
    do {
        let number = acknowledged + 1
        let result = try await coffer.transact(if: [.absent(key(number))], then: [.put(key(number), try Coffer.Secret("\(number)"))], otherwise: [.get(key(number))])
        guard result.succeeded || result.found.first??.value.revealedText() == "\(number)" else { fatalError("entry \(number) is somebody else's") }
        acknowledged = number
        longest = max(longest, clock.now - last)
        last = clock.now
        if number % 50 == 0 { say("acknowledged \(number)") }
    } catch {
        try await Task.sleep(for: .milliseconds(10))
    }
    if coffer.leadership.isLeader, let text = try? String(contentsOfFile: orders + "/lead", encoding: .utf8),
        let next = UInt64(text.trimmingCharacters(in: .whitespacesAndNewlines), radix: 16) {
        try? await coffer.moveLeadership(to: next)
    }
    if let leader = coffer.leadership.leader, leaders.last != leader {
        leaders.append(leader)
        say("leader \(String(leader, radix: 16))")
    }
}

let page = try await coffer.range(.prefix("counter/"))
let deadline = clock.now + .seconds(10)
while told.all.count < acknowledged, clock.now < deadline { try await Task.sleep(for: .milliseconds(10)) }
let isComplete = page.items.map { $0.value.revealedText() } == (1...max(1, acknowledged)).map { "\($0)" }
let isTold = told.all == Array(1...max(1, acknowledged))
say("all \(acknowledged) acknowledged entries are here: \(isComplete); the watch was told each, in order: \(isTold)")
say("leaders: \(leaders.count); the longest wait for an acknowledgement was \(longest / .milliseconds(1)) ms")
watching.cancel()
await coffer.close()
exit(acknowledged > 0 && isComplete && isTold ? 0 : 1)
