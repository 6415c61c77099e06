import Commands
import Foundation

signal(SIGPIPE, SIG_IGN)
exit(await CofferCommand.run(Array(CommandLine.arguments.dropFirst()), in: .live()))
