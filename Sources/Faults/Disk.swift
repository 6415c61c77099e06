/// A file system of a member's own, whose room and power are in our hands.
package protocol Disk: Sendable {
    var path: String { get }
    var losesPower: Bool { get }
    /// Takes all room but `kilobytes`.
    func fill(leaving kilobytes: Int) throws
    func empty()
    /// From now on everything fails, and what was not synced is lost, or a part of it that depends on `seed`.
    func losePower(seed: UInt64) throws
    /// It works again: nobody may use it.
    func powerUp() async throws
    func unmount() async
}
